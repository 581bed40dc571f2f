"""What the forward pass sees: methods that train one set of weights and run the network on another.

A parametrization is four pure functions. ``init`` makes what is trained out of the parameters,
``apply`` makes the effective weights out of what is trained, ``penalty`` is a term of the loss,
``finalize`` ends with pruned parameters and their mask. Three notions carry this folder:

* **trainable** goes through the optimizer. It is the dense parameters themselves or, for methods
  that learn thresholds or gates beside them, a NamedTuple whose ``params`` they are.
* **state** is carried like the running statistics of a model: `apply` counts a step and returns
  the new one. It holds a step counter and, where a method keeps one, the mask. A step that takes
  its gradients from k parts of a batch (`optax.MultiSteps`) calls `apply` k times: give it the
  same state k times and keep one of those returned, or make its schedule k times as long.
* `apply` and `penalty` of one step take the **same** trainable and state. To evaluate, call
  ``params, _ = p.apply(trainable, state)`` at any time: dropping the new state changes nothing.

Example:
  The loop of every method; only the second line names one.

  >>> import jax, jax.numpy as jnp, optax
  >>> from jaxprune import parametrizations
  >>> p, tx = parametrizations.dnw(0.5), optax.sgd(0.1)
  >>> def loss_fn(trainable, state, x):
  ...     params, new_state = p.apply(trainable, state)
  ...     return jnp.mean((x @ params["kernel"] - 1) ** 2) + p.penalty(trainable, state), new_state
  >>> trainable, state = p.init({"kernel": jnp.array([[0.1], [-0.4]])})
  >>> opt_state = tx.init(trainable)
  >>> for _ in range(10):
  ...     (loss, state), grads = jax.value_and_grad(loss_fn, has_aux=True)(
  ...         trainable, state, jnp.eye(2))
  ...     updates, opt_state = tx.update(grads, opt_state, trainable)
  ...     trainable = optax.apply_updates(trainable, updates)
  >>> p.finalize(trainable, state)[1]
  {'kernel': Array([[ True],
         [False]], dtype=bool)}
"""

from jaxprune.parametrizations._cs import CsTrainable as CsTrainable
from jaxprune.parametrizations._cs import cs as cs
from jaxprune.parametrizations._dnw import dnw as dnw
from jaxprune.parametrizations._dpf import dpf as dpf
from jaxprune.parametrizations._dst import DstState as DstState
from jaxprune.parametrizations._dst import DstTrainable as DstTrainable
from jaxprune.parametrizations._dst import dst as dst
from jaxprune.parametrizations._dst_resets import dst_resets as dst_resets
from jaxprune.parametrizations._gmp_recover import gmp_recover as gmp_recover
from jaxprune.parametrizations._gradual import GradualState as GradualState
from jaxprune.parametrizations._identity import identity as identity
from jaxprune.parametrizations._parametrization import Parametrization as Parametrization
from jaxprune.parametrizations._parametrization import StepState as StepState
from jaxprune.parametrizations._sr_ste import sr_ste as sr_ste
from jaxprune.parametrizations._ste import masked as masked
from jaxprune.parametrizations._str import StrTrainable as StrTrainable
from jaxprune.parametrizations._str import str_ as str_
