"""One process of several that train the same network; what it ends with goes to a file.

python -m tests.training.processes_run OUT PORT PROCESSES INDEX KIND...

Of each kind, "whole" or "sharded" parameters, it trains twenty steps and prunes. With "resume" it
also stops and goes on with a run of each, and with "stream" it trains on batches of which every
process brings its rows.
"""

import sys

import jax
import numpy as np


def main():
    out, port, processes, index = sys.argv[1], *map(int, sys.argv[2:5])
    wanted = sys.argv[5:]
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if processes > 1:
        jax.distributed.initialize(f"localhost:{port}", processes, index)

    # Only now: these make arrays, and so ask for the devices.
    from jax.experimental import multihost_utils
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    import jaxprune as jp
    from tests.training import meshed

    mesh = Mesh(np.array(jax.devices()), ("data",))
    assert mesh.size == 4
    results = {}

    def note(name, tree):
        for i, leaf in enumerate(jax.tree.leaves(tree)):
            if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                continue
            whole = isinstance(leaf, np.ndarray) or leaf.is_fully_replicated
            results[f"{name}/{i}"] = np.asarray(
                leaf if whole else multihost_utils.process_allgather(leaf, tiled=True)
            )

    # Layers on several processes: each knows the numbers of all.
    where = NamedSharding(mesh, PartitionSpec("data"))
    layers = jax.make_array_from_callback(meshed.LAYERS.shape, where, lambda i: meshed.LAYERS[i])
    rows = jp.metrics.sparsity_per_leaf({"w": layers}, stacked={"w": 0})
    results["kept of layers"] = np.array([row.kept for row in rows])

    dense = jp.prune(meshed.state().params, 0.5)[1]
    rates = np.linspace(0.1, 0.01, 20)
    for kind in ("whole", "sharded"):
        if kind not in wanted:
            continue
        rule = jp.training.fully_sharded(mesh, min_size=64) if kind == "sharded" else None
        step = jp.training.make_train_step(
            meshed.make_loss_fn(), meshed.sgd, mesh=mesh, sharding=rule
        )
        train = jp.training.make_loop(step, meshed.batch_at, chunk_steps=5)
        state, metrics = train(meshed.state(dense), rates)
        note(f"{kind} params", state.params)
        note(f"{kind} loss", metrics["loss"])
        # The same parameters give the same mask, wherever they lie.
        fixed = step.place(meshed.state())
        note(f"{kind} mask", jp.prune(fixed.params, 0.7)[1])
        if "resume" in wanted:
            _resume(f"{out}-{kind}", kind, train, results, note)

    if "stream" in wanted:
        rows = slice(index * 32 // processes, (index + 1) * 32 // processes)

        def stream(first):
            for t in range(first, 10**6):
                yield jax.tree.map(lambda x: np.asarray(x)[rows], meshed.batch_at(t))

        step = jp.training.make_train_step(meshed.make_loss_fn(), meshed.sgd, mesh=mesh)
        state, _ = jp.training.make_stream_loop(step, stream, chunk_steps=5)(
            meshed.state(dense), rates
        )
        note("stream params", state.params)
    if index == 0:
        np.savez(out, **results)


def _resume(folder, kind, train, results, note):
    """Stops a run because one process is asked to, and goes on where one cannot read its part."""
    import optax
    import orbax.checkpoint as ocp

    import jaxprune as jp
    from jaxprune.training import Checkpoints, Preempted
    from tests.training import meshed

    is_last = jax.process_index() == jax.process_count() - 1
    options = {
        "evaluate": meshed.evaluate(),
        "pretraining": optax.linear_schedule(0.1, 0.0, 12),
        "pretraining_steps": 12,
        "sparsity": 0.75,
        "cycles": 2,
        "retraining_steps": 6,
    }
    asked = iter(range(100))
    # Only one process hears that it is to end; all of them save and stop together.
    stop = lambda: next(asked) >= 4 and is_last  # noqa: E731
    try:
        stops = Checkpoints(folder, every=10, stop=stop)
        jp.training.imp(meshed.state(), train, checkpoints=stops, **options)
        raise SystemExit("did not stop")
    except Preempted as notice:
        stopped = notice.steps
    results[f"{kind} stopped"] = np.array(stopped)
    handler = ocp.StandardCheckpointHandler
    restore, failures = handler.restore, [kind == "sharded" and is_last]

    def restore_or_fail(*arguments, **options):
        if failures and failures.pop():
            raise ValueError("what this process has to read is damaged")
        return restore(*arguments, **options)

    # One process cannot read its part: all go back to the checkpoint before, none waits.
    handler.restore = restore_or_fail
    heard = []
    goes_on = Checkpoints(folder, every=10, resume=True, on_resume=heard.append)
    resumed = jp.training.imp(meshed.state(), train, checkpoints=goes_on, **options)
    handler.restore = restore
    results[f"{kind} went on at"] = np.array(heard[0].steps)
    truth = jp.training.imp(meshed.state(), train, **options)
    for part in ("params", "opt_state", "model_state"):
        for a, b in zip(
            jax.tree.leaves(getattr(resumed.state, part)),
            jax.tree.leaves(getattr(truth.state, part)),
            strict=True,
        ):
            assert bool(jax.numpy.all(a == b)), part
    note(f"{kind} rates", [record.learning_rates for record in truth.records])
    note(f"{kind} final mask", truth.state.mask)
    results[f"{kind} kept"] = np.array([record.nonzero for record in truth.records])
    results[f"{kind} accuracy"] = np.array([r.evaluation["accuracy"] for r in truth.records])


if __name__ == "__main__":
    main()
