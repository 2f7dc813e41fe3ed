"""What Cosmos 3 is: checkpoints, tokens, the two towers, embodiment domains."""
