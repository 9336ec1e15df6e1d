"""NumPyro's side of bench_step.py: SVI under jit and lax.scan, in an interpreter of its own.

    python tests/benchmarks/bench_step.py --numpyro PATH_TO_A_PYTHON_WITH_NUMPYRO

bench_step.py starts this script and writes one JSON command per line on stdin; each is answered
by one line on stdout: {"setup": file of weights and batches}, {"check": steps}, {"run": steps}.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time

START = time.perf_counter()


def apply(layers, arrays, h):
    """The layers that bench_step.export lists; images are [N, height, width, channels]."""
    from jax import lax, nn

    numbers = ("NHWC", "HWIO", "NHWC")
    for kind, *arguments in layers:
        if kind == "flatten":
            h = h.reshape(h.shape[0], -1)
        elif kind == "unflatten":
            h = h.reshape(h.shape[0], *arguments)
        elif kind == "relu":
            h = nn.relu(h)
        else:
            weight, bias = arrays[arguments[0]], arrays[arguments[0] + 1]
            if kind == "linear":
                h = h @ weight + bias
            else:
                stride, padding = arguments[1:]
                fractional = kind == "deconvolution"
                h = bias + lax.conv_general_dilated(
                    h,
                    weight,
                    (1, 1) if fractional else (stride, stride),
                    [
                        (size - 1 - padding if fractional else padding,) * 2
                        for size in weight.shape[:2]
                    ],
                    lhs_dilation=(stride, stride) if fractional else None,
                    dimension_numbers=numbers,
                )
    return h


class Peer:
    """One case: a network, a batch size and a loss."""

    def __init__(self, setup):
        import jax
        import numpy as np
        import numpyro
        import numpyro.distributions as dist
        from jax import numpy as jnp

        jax.config.update("jax_default_matmul_precision", setup["precision"])
        start = time.perf_counter()
        file = np.load(setup["setup"])
        self.jax, self.batches = jax, jnp.asarray(file["batches"])
        pool, size, *event = self.batches.shape
        latent = setup["latent"]
        initial = {
            part: [jnp.asarray(file[f"{part}{i}"]) for i in range(setup["arrays"][part])]
            for part in ("encoder", "decoder")
        }

        def model(x):
            arrays = numpyro.param("decoder", initial["decoder"])
            with numpyro.plate("data", size):
                prior = dist.Normal(jnp.zeros((size, latent)), 1.0).to_event(1)
                z = numpyro.sample("z", prior)
                logits = apply(setup["layers"]["decoder"], arrays, z).reshape(size, *event)
                numpyro.sample("x", dist.Bernoulli(logits=logits).to_event(len(event)), obs=x)

        def guide(x):
            arrays = numpyro.param("encoder", initial["encoder"])
            out = apply(setup["layers"]["encoder"], arrays, x)
            loc, scale = out[:, :latent], jax.nn.softplus(out[:, latent:]) + 1e-5
            with numpyro.plate("data", size):
                numpyro.sample("z", dist.Normal(loc, scale).to_event(1))

        losses = {
            "trace": numpyro.infer.Trace_ELBO,
            "analytic": numpyro.infer.TraceMeanField_ELBO,
        }
        optimiser = numpyro.optim.Adam(setup["rate"])
        svi = numpyro.infer.SVI(model, guide, optimiser, losses[setup["loss"]]())
        self.state = svi.init(jax.random.PRNGKey(setup["seed"]), self.batches[0])
        self.start = jax.tree.map(np.asarray, self.state)
        self.count, self.last = 0, []

        def train(state, batches, first, steps):
            def body(state, step):
                return svi.update(state, batches[step % pool])

            return jax.lax.scan(body, state, first + jnp.arange(steps))

        def check(state, batches, steps):
            """Losses of updates that are not kept."""

            def body(key, step):
                key, now = jax.random.split(key)
                return key, svi.update(state._replace(rng_key=now), batches[step % pool])[1]

            return jax.lax.scan(body, state.rng_key, jnp.arange(steps))[1]

        self.pool = pool
        self.train = jax.jit(train, static_argnums=3, donate_argnums=0)
        self.check_ = jax.jit(check, static_argnums=2)
        self.setup_seconds = time.perf_counter() - start

    def check(self, steps):
        """Losses at the weights of the start, where training begins again."""
        self.state = self.jax.tree.map(self.jax.numpy.array, self.start)
        return {"losses": self.check_(self.state, self.batches, steps).tolist()}

    def run(self, steps):
        start = time.perf_counter()
        self.state, losses = self.train(self.state, self.batches, self.count, steps)
        self.jax.block_until_ready(losses)
        seconds = time.perf_counter() - start
        self.count += steps
        self.last = [*self.last, *losses.tolist()][-self.pool :]
        return {"seconds": seconds / steps, "trained": sum(self.last) / len(self.last)}


def main():
    threads = int(sys.argv[1])
    if threads and hasattr(os, "sched_setaffinity"):  # XLA has no other way to be told
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    peer = None
    for line in sys.stdin:
        command = json.loads(line)
        try:
            if "setup" in command:
                peer = Peer(command)
                import jax
                import numpyro

                answer = {
                    "seconds": peer.setup_seconds,
                    "imports": time.perf_counter() - START - peer.setup_seconds,
                    "versions": {"numpyro": numpyro.__version__, "jax": jax.__version__},
                    "device": str(jax.devices()[0]),
                }
            elif "check" in command:
                answer = peer.check(command["check"])
            else:
                answer = peer.run(command["run"])
                answer["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
