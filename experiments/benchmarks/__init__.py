"""What things cost, side by side in one process. ``jaxtrain bench NAME`` runs one and prints its table."""
