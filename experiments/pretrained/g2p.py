"""English words to phonemes: the recurrent network that the package `g2p-en` carries."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.pretrained import _packages
from experiments.pretrained._network import Network, is_kernel

PACKAGE = "g2p-en"
GRAPHEMES = ("<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz")
_PHONEMES = """
<pad> <unk> <s> </s> AA0 AA1 AA2 AE0 AE1 AE2 AH0 AH1 AH2 AO0 AO1 AO2 AW0 AW1 AW2 AY0 AY1 AY2
B CH D DH EH0 EH1 EH2 ER0 ER1 ER2 EY0 EY1 EY2 F G HH IH0 IH1 IH2 IY0 IY1 IY2 JH K L M N NG
OW0 OW1 OW2 OY0 OY1 OY2 P R S SH T TH UH0 UH1 UH2 UW UW0 UW1 UW2 V W Y Z ZH
"""
PHONEMES = _PHONEMES.split()  # in the order of the network's output
PAD, START, END = 0, 2, 3  # among the phonemes
_END_OF_WORD = 2  # among the graphemes
MOST = 20  # phonemes of a word, as the package has it


class Words(NamedTuple):
    """Words and phonemes that are known of them.

    Attributes:
      letters: int32 ``[batch, letters]``, each word ended by ``</s>``, then padded with 0.
      phonemes: int32 ``[batch, phonemes + 1]``: ``<s>``, the phonemes, ``</s>``, padded with 0.
    """

    letters: jax.Array
    phonemes: jax.Array


def load() -> Network:
    """The encoder-decoder of gated recurrent units, 256 wide; 833,000 weights.

    ``apply`` maps `Words` to logits ``[batch, phonemes, 74]``, each of the phoneme after those
    before it; `pronounce` has the network go on from its own.

    Raises:
      ModuleNotFoundError: if the package is not installed.

    References:
      Park and Kim, g2p: English grapheme to phoneme conversion, 2019. Cho et al., Learning phrase
      representations using RNN encoder-decoder, 2014.
    """
    with np.load(_packages.file("g2p_en", "checkpoint20.npz", install=PACKAGE)) as file:
        return network({name: file[name] for name in file.files})


def network(tensors: dict[str, np.ndarray]) -> Network:
    """A network of tensors by the names of the package."""
    return Network("G2P", from_torch(tensors), apply, is_outside_loops, to_torch)


def is_outside_loops(path: str, leaf: Any) -> bool:
    """Whether a leaf is a kernel that is used once.

    The recurrent kernels are used in every round of a loop, on inputs that they make themselves.
    """
    return is_kernel(path, leaf) and "/hidden/" not in path


def _cell(params: Any, inside: jax.Array, state: jax.Array) -> jax.Array:
    """A gated recurrent unit; ``inside`` is what the input gives, ``[batch, 3 * width]``.

    The reset gate multiplies the product, bias included, as in PyTorch.
    """
    r, z, n = jnp.split(inside, 3, -1)
    rh, zh, nh = jnp.split(state @ params["hidden"]["kernel"] + params["hidden"]["bias"], 3, -1)
    update = jax.nn.sigmoid(z + zh)
    new = jnp.tanh(n + jax.nn.sigmoid(r + rh) * nh)
    return (1 - update) * new + update * state


def _inputs(params: Any, tokens: jax.Array) -> jax.Array:
    """What embedded tokens give to the gates, ``[*tokens, 3 * width]``."""
    found = params["embedding"][tokens]
    return found @ params["input"]["kernel"] + params["input"]["bias"]


def encode(params: Any, letters: jax.Array) -> jax.Array:
    """The state after the last letter of each word, ``[batch, width]``."""
    params = params["encoder"]
    real = letters != PAD
    # Padding enters products as zeros, so that statistics of what enters them do not see it.
    embedded = jnp.where(real[..., None], params["embedding"][letters], 0)
    inside = embedded @ params["input"]["kernel"] + params["input"]["bias"]

    def step(state: jax.Array, at: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        inside, real = at[0], at[1][:, None]
        new = _cell(params, inside, jnp.where(real, state, 0))
        return jnp.where(real, new, state), None

    zero = jnp.zeros((len(letters), params["hidden"]["kernel"].shape[0]), inside.dtype)
    return jax.lax.scan(step, zero, (inside.swapaxes(0, 1), real.T))[0]


def apply(params: Any, words: Words) -> jax.Array:
    """Logits of each phoneme from the right ones before it, ``[batch, phonemes, 74]``."""
    given = words.phonemes[:, :-1]
    real = given != PAD
    decoder = params["decoder"]
    embedded = jnp.where(real[..., None], decoder["embedding"][given], 0)
    inside = embedded @ decoder["input"]["kernel"] + decoder["input"]["bias"]

    def step(state: jax.Array, at: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        new = _cell(decoder, at[0], state)
        new = jnp.where(at[1][:, None], new, 0)  # after the end
        return new, new

    start = encode(params, words.letters)
    _, states = jax.lax.scan(step, start, (inside.swapaxes(0, 1), real.T))
    return states.swapaxes(0, 1) @ params["output"]["kernel"] + params["output"]["bias"]


def pronounce(params: Any, letters: jax.Array) -> jax.Array:
    """The most likely phonemes one by one, int32 ``[batch, MOST]``, with 0 from the end on."""
    decoder, output = params["decoder"], params["output"]

    def step(carry: tuple[jax.Array, jax.Array, jax.Array], _: None) -> Any:
        state, before, ended = carry
        state = _cell(decoder, _inputs(decoder, before), state)
        best = jnp.argmax(state @ output["kernel"] + output["bias"], -1).astype(jnp.int32)
        ended = ended | (best == END)
        return (state, best, ended), jnp.where(ended, PAD, best)

    n = len(letters)
    carry = (encode(params, letters), jnp.full(n, START, jnp.int32), jnp.zeros(n, bool))
    return jax.lax.scan(step, carry, None, MOST)[1].T


def spelled(words: list[str], length: int | None = None) -> np.ndarray:
    """Words as letters, int32 ``[words, length]``; of the longest, if no length is given.

    Letters that the network does not know are ``<unk>``.
    """
    length = length or max(map(len, words)) + 1
    index = {letter: i for i, letter in enumerate(GRAPHEMES)}
    found = np.zeros((len(words), length), np.int32)
    for row, word in zip(found, words, strict=True):
        if len(word) >= length:
            raise ValueError(f"the word {word!r} has more than {length - 1} letters.")
        row[: len(word) + 1] = [*(index.get(c, 1) for c in word), _END_OF_WORD]
    return found


_NAMES = {"encoder": "enc", "decoder": "dec"}


def from_torch(tensors: dict[str, np.ndarray]) -> Any:
    """Our parameters of the package's arrays, which are in PyTorch's layout.

    Raises:
      ValueError: naming an array that is missing.
    """

    def at(name: str) -> np.ndarray:
        if name not in tensors:
            raise ValueError(f"there is no array {name!r}; these are no weights of g2p-en.")
        return tensors[name]

    def dense(kernel: str, bias: str) -> dict[str, jax.Array]:
        return {"kernel": jnp.asarray(at(kernel).T), "bias": jnp.asarray(at(bias))}

    params: dict[str, Any] = {"output": dense("fc_w", "fc_b")}
    for ours, theirs in _NAMES.items():
        params[ours] = {
            "embedding": jnp.asarray(at(f"{theirs}_emb")),
            "input": dense(f"{theirs}_w_ih", f"{theirs}_b_ih"),
            "hidden": dense(f"{theirs}_w_hh", f"{theirs}_b_hh"),
        }
    return params


def to_torch(params: Any) -> dict[str, np.ndarray]:
    """The arrays by the package's names: the inverse of `from_torch`."""
    found = {"fc_w": params["output"]["kernel"].T, "fc_b": params["output"]["bias"]}
    for ours, theirs in _NAMES.items():
        found[f"{theirs}_emb"] = params[ours]["embedding"]
        for part, ending in (("input", "ih"), ("hidden", "hh")):
            found[f"{theirs}_w_{ending}"] = params[ours][part]["kernel"].T
            found[f"{theirs}_b_{ending}"] = params[ours][part]["bias"]
    return {name: np.ascontiguousarray(x) for name, x in found.items()}
