"""Many processes as one program, over ``jax.distributed``."""

import os

import jax


def initialize(coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None) -> None:
    """Joins the processes of a run; called once in each, before anything touches a device.

    On TPU pods, Slurm, Open MPI and Kubernetes (indexed Jobs, JobSets) JAX finds out by itself where the others are.
    Elsewhere say it by arguments or by ``JAX_COORDINATOR_ADDRESS``, ``JAX_NUM_PROCESSES`` and ``JAX_PROCESS_ID``.

    Args:
      coordinator: ``host:port`` of process 0.
      num_processes: of the whole run.
      process_id: of this process, from 0.

    Raises:
      ValueError: only some of the three were given.
    """
    coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    if num_processes is None and "JAX_NUM_PROCESSES" in os.environ:
        num_processes = int(os.environ["JAX_NUM_PROCESSES"])
    if process_id is None and "JAX_PROCESS_ID" in os.environ:
        process_id = int(os.environ["JAX_PROCESS_ID"])
    given = [x is not None for x in (coordinator, num_processes, process_id)]
    if any(given) and not all(given):
        raise ValueError(
            "a run of several processes needs all of coordinator address, number of processes and process id, got "
            f"{coordinator}, {num_processes} and {process_id} (JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID)"
        )
    jax.distributed.initialize(coordinator, num_processes, process_id)
