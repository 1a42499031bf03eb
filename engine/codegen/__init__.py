"""Python kernels -> machine code: what the CPU permits, the vocabulary of vectors, the compiler."""
