"""Episodes into LeRobot v3 datasets, datasets into checkpoints. Extras ``sim``, ``record``, ``model``."""
