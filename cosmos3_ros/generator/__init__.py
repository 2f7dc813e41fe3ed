"""Observation and instruction to ActionChunk."""
