"""Flax NNX, Haiku and Keras: where their parameters are, and how they are called with others."""

# Packages of the extra `models` may be absent where types are checked.
# pyright: reportMissingImports=false

import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.bench.models.entry import Entry, Model, drawn, floating, images


def of_nnx(module: Any, *inputs: Any) -> Model:
    """A Flax NNX module: its floating variables are the parameters."""
    from flax import nnx

    graph, params, rest = nnx.split(module, lambda _, x: floating(x), ...)

    def apply(params: Any, *inputs: Any) -> Any:
        return nnx.merge(graph, nnx.State(params), rest)(*inputs)

    return Model(apply, drawn(nnx.to_pure_dict(params)), inputs)


def of_haiku(f: Callable[..., Any], *inputs: Any) -> Model:
    """A Haiku function of inputs and ``training``; parameters lie under "params", state "state"."""
    import haiku as hk

    transformed = hk.without_apply_rng(hk.transform_with_state(f))
    # Averages of batch norms are only made in training.
    params, state = jax.jit(lambda key: transformed.init(key, *inputs, True))(jax.random.key(0))
    moving = {m: {k: x for k, x in own.items() if floating(x)} for m, own in state.items()}

    def apply(both: Any, *inputs: Any) -> Any:
        now = {m: {**own, **both["state"][m]} for m, own in state.items()}
        return transformed.apply(both["params"], now, *inputs, False)[0]

    return Model(apply, drawn({"params": params, "state": moving}), inputs)


def of_keras(make: Callable[[Any], Any], x: Any) -> Callable[[], Model]:
    """A Keras model on the JAX backend, called without state."""

    def made() -> Model:
        os.environ.setdefault("KERAS_BACKEND", "jax")
        import keras

        if keras.backend.backend() != "jax":
            raise ValueError(f"Keras runs on {keras.backend.backend()!r}. Set KERAS_BACKEND=jax.")
        whole = make(keras)
        places = {
            "trainable": [v.path for v in whole.trainable_variables],
            "other": [v.path for v in whole.non_trainable_variables],
        }
        values = {v.path: v.value for v in whole.variables}
        params = {p: x for p, x in values.items() if floating(x)}

        def apply(params: Any, x: Any) -> Any:
            now = {**values, **params}
            lists = [[now[p] for p in places[kind]] for kind in ("trainable", "other")]
            return whole.stateless_call(*lists, x, training=False)[0]

        return Model(apply, drawn(params), (x,))

    return made


def _kan(layer: str, **options: Any) -> Callable[[], Model]:
    def make() -> Model:
        from jaxkan.models.KAN import KAN

        return of_nnx(KAN([4, 16, 16, 2], layer, options, 0), images(8, 4))

    return make


def _mobilenet_v1(x: Any, training: bool) -> Any:
    import haiku as hk

    net = hk.nets.MobileNetV1((1, 2, 1, 2), (16, 32, 32, 64), num_classes=10)
    return net(x, is_training=training)


def _haiku_resnet(x: Any, training: bool) -> Any:
    import haiku as hk

    net = hk.nets.ResNet(
        (1, 1, 1, 1), 10, channels_per_group=(64, 64, 128, 128),
        use_projection=(True, False, True, False), strides=(1, 1, 2, 1), resnet_v2=True,
    )  # fmt: skip
    return net(x, is_training=training)


def _haiku_transformer(x: Any, training: bool) -> Any:
    import haiku as hk

    x = hk.Linear(64)(x)
    for _ in range(2):
        y = hk.LayerNorm(-1, create_scale=True, create_offset=True)(x)
        x = x + hk.MultiHeadAttention(4, 16, w_init=hk.initializers.RandomNormal(0.1))(y, y, y)
        y = hk.LayerNorm(-1, create_scale=True, create_offset=True)(x)
        x = x + hk.Linear(64)(jax.nn.gelu(hk.Linear(128)(y)))
    return hk.Linear(5)(x.mean(1))


def _graph(nodes: Any) -> Any:
    import jraph

    n = nodes.shape[0]
    senders = jnp.arange(3 * n) % n
    receivers = (senders * 5 + jnp.arange(3 * n) // n) % n
    return jraph.GraphsTuple(
        nodes=nodes, edges=jnp.ones((3 * n, 3)), senders=senders, receivers=receivers,
        n_node=jnp.array([n]), n_edge=jnp.array([3 * n]), globals=jnp.zeros((1, 2)),
    )  # fmt: skip


def _gcn(nodes: Any, training: bool) -> Any:
    import haiku as hk
    import jraph

    graph = _graph(nodes)
    graph = jraph.GraphConvolution(lambda x: jax.nn.relu(hk.Linear(32)(x)), add_self_edges=True)(
        graph
    )
    graph = jraph.GraphConvolution(lambda x: jax.nn.relu(hk.Linear(32)(x)), add_self_edges=True)(
        graph
    )
    return hk.Linear(3)(graph.nodes)


def _message_passing(nodes: Any, training: bool) -> Any:
    import haiku as hk
    import jraph

    def mlp(size: int) -> Any:
        return jraph.concatenated_args(hk.nets.MLP([32, size]))

    graph = _graph(nodes)
    for _ in range(2):
        net = jraph.GraphNetwork(mlp(16), mlp(16), mlp(16))
        graph = net(graph)
    return hk.Linear(3)(graph.nodes)


def _keras_net(name: str, size: int, **options: Any) -> Callable[[], Model]:
    def make(keras: Any) -> Any:
        found = getattr(keras.applications, name)
        return found(
            weights=None, input_shape=(size, size, 3), classes=10, classifier_activation=None,
            **options,
        )  # fmt: skip

    return of_keras(make, images(1, size, size, 3))


_HAIKU, _JRAPH = ("haiku",), ("haiku", "jraph")
_ONE = "an image of 32x32"
ENTRIES = {
    "KAN of splines (jaxkan)": Entry(
        "jaxkan", ("jaxkan",), _kan("base", k=3, G=5), "8 points of 4"
    ),
    "KAN of Chebyshev polynomials (jaxkan)": Entry(
        "jaxkan", ("jaxkan",), _kan("chebyshev", D=4), "8 points of 4"
    ),
    "MobileNet (dm-haiku)": Entry(
        "dm-haiku", _HAIKU, lambda: of_haiku(_mobilenet_v1, images(1, 32, 32, 3)), _ONE
    ),
    "ResNet v2 (dm-haiku)": Entry(
        "dm-haiku", _HAIKU, lambda: of_haiku(_haiku_resnet, images(1, 32, 32, 3)), _ONE
    ),
    "Transformer blocks (dm-haiku)": Entry(
        "dm-haiku", _HAIKU, lambda: of_haiku(_haiku_transformer, images(2, 8, 16)), "2 x 8 vectors"
    ),
    "Graph convolutions (jraph)": Entry(
        "jraph", _JRAPH, lambda: of_haiku(_gcn, images(10, 8)), "10 nodes, 30 edges"
    ),
    "Graph network (jraph)": Entry(
        "jraph", _JRAPH, lambda: of_haiku(_message_passing, images(10, 8)), "10 nodes, 30 edges"
    ),
    "MobileNetV2 (keras)": Entry(
        "keras", ("keras",), _keras_net("MobileNetV2", 32, alpha=0.35), _ONE
    ),
    "EfficientNetB0 (keras)": Entry("keras", ("keras",), _keras_net("EfficientNetB0", 32), _ONE),
    "DenseNet-121 (keras)": Entry("keras", ("keras",), _keras_net("DenseNet121", 32), _ONE),
    "ConvNeXt-Tiny (keras)": Entry("keras", ("keras",), _keras_net("ConvNeXtTiny", 32), _ONE),
}
