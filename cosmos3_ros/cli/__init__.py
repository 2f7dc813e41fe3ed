"""The command cosmos3."""
