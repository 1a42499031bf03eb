"""A small BERT that begins where its teacher's embeddings are.

The teacher's hidden states of all layers are projected by one orthonormal matrix P (teacher width
x student width): the leading principal directions of their second moments, turned by a random
rotation so that no coordinate carries much more than another (which also suits 8-bit
activations). Word, position and type embeddings start as E P; the hidden states that the student
is asked to imitate are h P.
"""

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification, BertModel


def student_config(
    teacher: BertConfig, *, layers: int, hidden: int, heads: int, intermediate: int
) -> BertConfig:
    """The student's configuration: the teacher's vocabulary and labels, its own sizes.

    Raises ValueError where the student is wider than the teacher or heads do not divide it.
    """
    if hidden > teacher.hidden_size:
        raise ValueError(f"student: hidden is {hidden} but the teacher's is {teacher.hidden_size}")
    if hidden % heads:
        raise ValueError(f"student: {heads} heads do not divide hidden {hidden}")
    return BertConfig(
        vocab_size=teacher.vocab_size,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=intermediate,
        max_position_embeddings=teacher.max_position_embeddings,
        hidden_dropout_prob=0.0,  # a student of soft targets underfits; dropout would only slow it
        attention_probs_dropout_prob=0.0,
        num_labels=teacher.num_labels,
    )


def projection(states: np.ndarray, *, hidden: int, seed: int) -> np.ndarray:
    """P, fp32 (teacher width, hidden), with orthonormal columns, from states (rows, width)."""
    _, vectors = np.linalg.eigh(states.T.astype(np.float64) @ states)
    leading = vectors[:, ::-1][:, :hidden]
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((hidden, hidden)))
    return (leading @ rotation).astype(np.float32)


@torch.no_grad()
def new_student(
    config: BertConfig, teacher: BertModel, matrix: np.ndarray
) -> BertForSequenceClassification:
    """A student with projected embeddings and otherwise random weights (set torch's seed)."""
    student = BertForSequenceClassification(config)
    p = torch.from_numpy(matrix)
    ours, theirs = student.bert.embeddings, teacher.embeddings
    for name in ("word_embeddings", "position_embeddings", "token_type_embeddings"):
        getattr(ours, name).weight.copy_(getattr(theirs, name).weight @ p)
    # LayerNorm does not commute with P: scale and shift that map one onto the other over the
    # vocabulary, per coordinate, by least squares
    words = theirs.word_embeddings.weight + theirs.token_type_embeddings.weight[0]
    words = words + theirs.position_embeddings.weight[:16].mean(0)
    normed = torch.nn.functional.layer_norm(words @ p, (p.shape[1],))
    wanted = theirs.LayerNorm(words) @ p
    x, y = normed - normed.mean(0), wanted - wanted.mean(0)
    scale = (x * y).sum(0) / (x * x).sum(0)
    ours.LayerNorm.weight.copy_(scale)
    ours.LayerNorm.bias.copy_(wanted.mean(0) - scale * normed.mean(0))
    return student
