"""What a kernel is given: the slots of the context, and how activations lie in memory.

Every kernel is `kernel(params, context, begin, end)`: params is the address of its own block of
8-byte slots (each kernel's file lists them), context that of the worker's block below, [begin, end)
the units of work.  Floats in a slot are float32 in its low four bytes.

Activations are [tile][channel][lane]: a tile is 64 tokens ("tokens" domain) or 16 sentences ("rows"
domain, after the [CLS] selection). Sentences stand end to end; a tile may hold parts of several.
Buffers are byte offsets into the worker's arena.
"""

ARENA = 0  # address of the activations
TOKENS = 8  # in this pack
TILES = 16  # of 64 tokens
SENTENCES = 24  # in this pack; in the steps of rows alone, those of all packs finished together
ROW_TILES = 32  # of 16 sentences, up to the last row
STARTS = 40  # address of int32 [sentences + 1]: first token of each sentence
IDS = 48  # address of int32 [tokens]
TYPES = 56  # address of int32 [tokens]
POSITIONS = 64  # address of int32 [tokens]
SCRATCH = 72  # address of memory of this worker alone
ROW_SENTENCES = 80  # address of int32 [rows]: index of each row's sentence in the call's batch
PLACES = 88  # address of int32 [tokens]: row of the call's [batch * length] that a token came from
OUTPUTS = 96  # address of int64 [outputs]: where the call's results go
OWN_ARENA = 104  # this worker's
SHARED_ARENA = 112  # the first worker's, when all work on one pack
GENERATION = 120  # of the last call it has taken part in
FIRST_ROW = 128  # of the pack's first sentence: rows of earlier packs may wait before it
CONTEXT_BYTES = 136

TILE = 64  # tokens
ROWS = 16  # sentences
OUTPUTS_OF_ROWS = 64  # outputs of a dense layer on rows that one unit makes
MOST_ROWS = 64  # sentences in a pack, and rows that wait for the steps of rows alone

# The control block of a team (drive.py)
LINES = 64  # where the workers' lines begin
LINE, SEMAPHORE, CPUS = 256, 64, 128  # bytes of a line, what a worker sleeps at, where it may run
CPUS_BYTES = LINE - CPUS
