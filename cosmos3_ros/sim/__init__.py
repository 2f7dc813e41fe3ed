"""MuJoCo scene, tasks and scripted expert."""
