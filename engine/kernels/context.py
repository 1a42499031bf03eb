"""What a kernel is given, and how activations lie in memory.

Every kernel is `kernel(params, context, begin, end)`: params is the address of its own parameters
(params.py), context that of the worker's block below, [begin, end) the units of work.

Activations are [tile][channel][lane]: a tile is 64 tokens ("tokens" domain) or 16 sentences ("rows"
domain, after the [CLS] selection). Sentences are packed without padding; a tile may hold parts of
several. Buffers are byte offsets into the worker's arena.
"""

from .record import Field, record

TILE = 64  # tokens
ROWS = 16  # sentences
OUTPUTS_OF_ROWS = 64  # outputs of a dense layer on rows that one unit makes
MOST_ROWS = 64  # sentences in a pack, and rows that wait for the steps of rows alone

CONTEXT = record(
    "CONTEXT",
    Field("arena", "int64", "address of the activations"),
    Field("tokens", "int64", "in this pack"),
    Field("tiles", "int64", "of 64 tokens"),
    Field("sentences", "int64", "in this pack; in the steps of rows alone, of all packs together"),
    Field("row_tiles", "int64", "of 16 sentences, up to the last row"),
    Field("starts", "int64", "address of int32 [sentences + 1]: first token of each sentence"),
    Field("ids", "int64", "address of int32 [tokens]"),
    Field("types", "int64", "address of int32 [tokens]"),
    Field("positions", "int64", "address of int32 [tokens]"),
    Field("scratch", "int64", "address of memory of this worker alone"),
    Field("row_sentences", "int64", "address of int32 [rows]: sentence of the batch of each row"),
    Field("places", "int64", "address of int32 [tokens]: row of [batch * length] it came from"),
    Field("outputs", "int64", "address of int64 [outputs]: where the call's results go"),
    Field("own_arena", "int64", "address of this worker's"),
    Field("shared_arena", "int64", "address of the first worker's, when all work on one pack"),
    Field("generation", "int64", "of the last call it has taken part in"),
    Field("first_row", "int64", "of the pack's first sentence: earlier packs' rows may wait"),
    Field("length", "int64", "tokens of every sentence, masked ones too"),
    Field("batch_ids", "int64", "address of int64 [batch * length]: the ids that the caller gave"),
)
