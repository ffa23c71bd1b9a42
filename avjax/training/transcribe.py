"""Transcripts by a trained model that has CTC and an attention decoder, such as DCM: by either way, and by both."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from avjax.data.frontend import Frontend
from avjax.data.pipeline import evaluation_batches
from avjax.objectives.decoding import Decoder, Tokens, greedy, prefix_beam_search
from avjax.streams import Batch, Stream
from avjax.training.metrics.tasks import BEAM, LEAST, search, text
from avjax.training.step import TrainState, split_model
from avjax.training.trained import Trained

WAYS = ("greedy", "beam", "joint")
Contexts = Mapping[str, Stream]
Heard = tuple[Float[Array, "B T K"], Bool[Array, "B T"], Contexts]


@dataclasses.dataclass(frozen=True)
class Transcripts:
    """Sentences of the clips of a split, in the order of the records.

    Attributes:
      true: what is said.
      found: way -> what a model says, by each of ``WAYS``: the likeliest token of each step of CTC; the best transcript
        that a prefix beam search finds with CTC; the best of CTC and the decoder together.
    """

    true: list[str]
    found: dict[str, list[str]]


def transcribe(
    trained: Trained,
    head: str,
    split: str = "test",
    *,
    ctc: float = 0.5,
    beam: int = BEAM,
    frontend: Frontend | None = None,
) -> Transcripts:
    """Transcribes a split in every one of ``WAYS``.

    Args:
      head: of the transcript.
      ctc: share of CTC in the score of a joint transcript.
      beam: prefixes that the joint search keeps.
      frontend: in place of the experiment's, with its augmentation: how a model does in noise. Drawn by clip, the same
        every time.
    """
    listen, follow = _compiled(trained, head, frontend)
    vocabulary, length = trained.description.vocabulary[head], trained.experiment.data.sequences[head]
    found = Transcripts([], {way: [] for way in WAYS})
    _, batches = evaluation_batches(trained.experiment.data, split, own=trained.on_devices.own)
    for local in batches:
        probabilities, valid, contexts = listen(trained.state, trained.on_devices(local))
        rows, steps = np.asarray(probabilities), np.asarray(valid)
        first = greedy(rows, steps)
        for row in np.flatnonzero(np.asarray(local.weight) > 0):
            own = jax.tree.map(lambda x, row=row: x[row : row + 1], contexts)
            decoder = attention_scores(lambda labels, own=own: follow(trained.state, jnp.asarray(labels), own), length)
            there = rows[row][steps[row]]
            said = (first[row], search(there), joint_search(there, decoder, ctc=ctc, beam=beam))
            for way, tokens in zip(WAYS, said, strict=True):
                found.found[way].append(text(tokens, vocabulary))
            true = np.asarray(local.target[head])[row].astype(np.int64)
            found.true.append(text(tuple(true[true > 0].tolist()), vocabulary))
    return found


def joint_search(
    probabilities: Float[np.ndarray, "T K"], decoder: Decoder, *, ctc: float = 0.5, beam: int = BEAM
) -> Tokens:
    """The best transcript of one clip by CTC and a decoder together (Watanabe et al. 2017); tokens that CTC takes for
    impossible are not tried."""
    possible = np.where(probabilities < LEAST, 0, probabilities)
    found = prefix_beam_search(possible, beam=beam, decoder=decoder, ctc=ctc)
    return found[0].tokens if found else ()


def attention_scores(follow: Callable[[Int[np.ndarray, "1 N"]], Array], length: int) -> Decoder:
    """An attention decoder as ``prefix_beam_search`` asks it: log p(y_i | y_1 ... y_i-1), the end among them.

    Args:
      follow: from the start label and a prefix, with anything behind it, [1, length + 1], to log probabilities
        [1, length + 1, K] of what follows each of its labels.
      length: most tokens of a transcript; nothing is said of what follows a longer one.
    """

    def decoder(prefix: Tokens) -> np.ndarray:
        labels = np.zeros((1, length + 1), np.int32)
        labels[0, 1 : len(prefix) + 1] = prefix[:length]
        following = np.asarray(follow(labels))[0]
        return following[len(prefix)] if len(prefix) <= length else np.full(following.shape[1], -np.inf)

    return decoder


def _compiled(
    trained: Trained, head: str, frontend: Frontend | None
) -> tuple[Callable[[TrainState, Batch], Heard], Callable[[TrainState, Array, Contexts], Array]]:
    """What a batch sounds and looks like to the model, and what its decoder says follows a prefix."""
    graph, _, _, constants = split_model(trained.experiment.build_model())

    def model(state: TrainState) -> nnx.Module:
        params = state.params if state.average is None else state.average
        merged = nnx.merge(graph, params, state.buffers, constants, copy=True)
        return nnx.view(merged, raise_if_not_found=False, deterministic=True, use_running_average=True)

    @jax.jit
    def listen(state: TrainState, batch: Batch) -> Heard:
        if frontend is None:
            features = trained.experiment.frontend(batch, None)
        else:
            features = frontend(batch, jax.random.key(0))
        output = model(state)(features.replace(target={}))
        return jax.nn.softmax(output.aux["ctc"][head]), output.aux["valid"][head], output.tokens

    @jax.jit
    def follow(state: TrainState, labels: Array, contexts: Contexts) -> Array:
        return jax.nn.log_softmax(model(state).decode[head](labels, contexts))

    return listen, follow
