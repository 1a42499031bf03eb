"""A package, so that the folder `workflow` of whoever uses this one is not taken for it."""
