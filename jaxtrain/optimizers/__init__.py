"""How a gradient becomes an update: optax GradientTransformations."""

__all__: list[str] = []
