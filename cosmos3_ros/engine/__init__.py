"""Towers as TensorRT engines: export, build, manifest, gate, run.

A plan for an RTX GPU compiles on a machine without one. Running it needs the GPU, so what cannot be
proven here (execution) is kept in :mod:`runtime` alone, and :mod:`fidelity` judges it on the user's
machine with vectors that were stored when the plan was built.
"""
