"""Recordings, metrics and checks that share no code with what they check."""
