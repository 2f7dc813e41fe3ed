"""Clip to SceneReport."""
