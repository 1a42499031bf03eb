"""Products: dense, 4x1 and 1x4, on bytes, bfloat16 and float32, on vectors and on AMX tiles."""
