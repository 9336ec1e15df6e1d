"""Mistakes told in words: the one error of a user's mistake, and what its sentence is made of."""

from __future__ import annotations

import difflib
import math
import numbers
import re
import sys
from collections.abc import Collection, Iterable
from typing import cast


class UsageError(ValueError):
    """A mistake in what was asked for: what happened, why, what to do."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """A hint at the choice that `word` seems to mean, or "" when none is near.

    >>> nearest("mnits", ["digits", "mnist"])
    "; did you mean 'mnist'?"
    """
    by_lower = {choice.lower(): choice for choice in choices}
    found = difflib.get_close_matches(word.lower(), list(by_lower), n=1)
    return f"; did you mean {by_lower[found[0]]!r}?" if found else ""


# What others call it, in lower case and without dashes -> what it is here, the first that a command
# or function has. After a dot a part's own option; after "=" a class to choose, and its argument.
SYNONYMS: dict[str, tuple[str, ...]] = {
    # training
    **dict.fromkeys(("optim", "optimiser"), ("optimizer",)),
    **dict.fromkeys(("learningrate", "stepsize", "eta"), ("lr",)),
    **dict.fromkeys(("scheduler", "lrscheduler"), ("lr_schedule",)),
    **dict.fromkeys(("numepochs", "nepochs", "maxepochs", "maxiter"), ("epochs",)),
    **dict.fromkeys(("batch", "bs", "minibatch", "minibatchsize"), ("batch_size",)),
    **dict.fromkeys(("clip", "gradclip", "gradientclipping", "maxgradnorm"), ("clip_norm",)),
    **dict.fromkeys(("val", "valsplit", "validationsplit", "testsize"), ("validation",)),
    **dict.fromkeys(("randomstate", "randomseed"), ("seed",)),
    **dict.fromkeys(("cuda", "gpu", "accelerator"), ("device",)),
    **dict.fromkeys(("objective", "criterion", "lossfn"), ("loss",)),
    **dict.fromkeys(("amp", "mixedprecision", "dtype"), ("precision",)),
    **dict.fromkeys(("outdir", "output", "outputdir", "logdir", "savedir"), ("out",)),
    **dict.fromkeys(("earlystopping", "earlystop"), ("patience", "callbacks")),
    **dict.fromkeys(("checkpoint", "ckpt", "resumefrom"), ("resume",)),
    **dict.fromkeys(("verbose", "progress", "silent"), ("quiet", "progress")),
    "overwrite": ("force",),
    "jit": ("compile",),
    **dict.fromkeys(("beta", "klweight", "kldweight"), ("loss=objectives.BetaELBO(beta)",)),
    **dict.fromkeys(("warmup", "annealing", "klwarmup"), ("loss=objectives.BetaELBO(schedule)",)),
    "freebits": ("FreeBits", "loss=objectives.FreeBits(nats)"),
    # the model, the data, what is drawn
    **dict.fromkeys(("units", "latent", "latents", "latentsize"), ("latent_dim", "dims")),
    **dict.fromkeys(("zdim", "zsize", "latentdims", "ncomponents"), ("latent_dim", "dims")),
    **dict.fromkeys(("encoder", "posterior"), ("guide",)),
    "decoder": ("likelihood",),
    **dict.fromkeys(("hidden", "hiddendim", "hiddensize"), ("guide.network.hidden",)),
    **dict.fromkeys(("model", "architecture"), ("program",)),
    **dict.fromkeys(("dataset", "input", "file"), ("data",)),
    **dict.fromkeys(("root", "dataroot", "datapath"), ("data_dir",)),
    **dict.fromkeys(("samples", "numsamples", "nsamples", "count"), ("n", "num_particles")),
    **dict.fromkeys(("particles", "iwsamples", "k"), ("num_particles",)),
    # classes
    **dict.fromkeys(("gaussian", "diagonal"), ("StandardNormal", "MeanField", "Normal")),
    **dict.fromkeys(("mse", "l2"), ("Normal",)),
    "l1": ("Laplace",),
    "bce": ("Bernoulli",),
    **dict.fromkeys(("crossentropy", "softmax"), ("Categorical",)),
    "vamp": ("VampPrior",),
    "gmm": ("mixture", "Mixture", "GaussianMixture"),
    **dict.fromkeys(("iaf", "maf", "realnvp", "nsf"), ("Flow",)),
    **dict.fromkeys(("vmf", "vonmisesfisher"), ("Sphere", "PowerSpherical")),
    **dict.fromkeys(("cnn", "conv"), ("ConvNet",)),
    **dict.fromkeys(("linear", "dense", "fc"), ("MLP",)),
    **dict.fromkeys(("elbo", "traceelbo"), ("trace",)),
    "tracemeanfieldelbo": ("analytic",),
    "traceenumelbo": ("enum",),
    "betavae": ("BetaELBO",),
    **dict.fromkeys(("tcvae", "betatcvae"), ("TotalCorrelation",)),
    **dict.fromkeys(("wae", "infovae"), ("MMD",)),
    "cvae": ("Conditional",),
    "lda": ("ProdLDA",),
    "dmm": ("DeepMarkov",),
    "ae": ("Autoencoder",),
    # commands
    "train": ("fit",),
    **dict.fromkeys(("eval", "test"), ("evaluate",)),
    **dict.fromkeys(("generate", "draw"), ("sample",)),
    **dict.fromkeys(("show", "describe", "summary"), ("info",)),
}


def meant(word: str, choices: Collection[str]) -> str:
    """A hint at the choice that a word means elsewhere, or else at the :func:`nearest`.

    >>> meant("--z-dim", ["--lr", "--latent-dim"]), meant("optm", ["optimizer"])
    ("; did you mean '--latent-dim'?", "; did you mean 'optimizer'?")
    """
    found = synonym(word, choices)
    return f"; did you mean {found!r}?" if found else nearest(word, choices)


def unknown(what: str, name: object, choices: Iterable[str]) -> UsageError:
    """The error of a name that is none of the choices, with the one that it seems to mean."""
    choices = list(choices)
    hint = meant(str(name)[:100], choices) or "."
    return UsageError(f"there is no {what} {shown(name)}{hint} Choose one of {', '.join(choices)}")


def shown(value: object) -> str:
    """A value as Python writes it, up to 500 characters."""
    text = repr(value)
    return text if len(text) <= 500 else f"{text[:500]}..."


def synonym(word: str, choices: Collection[str]) -> str:
    """The choice that a word means elsewhere, as it is written; "" where that is not known.

    >>> synonym("--beta", ["--loss", "--lr"]), synonym("beta", ["loss", "lr"])
    ('--loss BetaELBO --loss.beta', 'loss=pv.objectives.BetaELBO(beta=...)')
    """
    known = {_bare(choice): choice for choice in reversed([*choices])}
    if own := known.get(_bare(word)):
        return own
    for target in SYNONYMS.get(_bare(word), ()):
        name, mark, rest = re.split(r"([.=]|$)", target, maxsplit=1)
        if choice := known.get(_bare(name)):
            return _spelled(choice, mark, rest)
    return ""


def _bare(word: str) -> str:
    return re.sub("[-_]", "", word).lower()


def _spelled(choice: str, mark: str, rest: str) -> str:
    """A synonym's target as one writes it: on a command line, or in Python."""
    if mark != "=":
        return choice + mark + rest
    room, cls, argument = re.split(r"[.(]", rest.removesuffix(")"))
    if choice.startswith("-"):
        return f"{choice} {cls} {choice}.{argument}"
    return f"{choice}=pv.{room}.{cls}({argument}=...)"


def in_short(text: object, most: int = 300) -> str:
    """A message or a value on one line: without the tensors and traces that Pyro and torch show.

    >>> in_short("found invalid values: tensor([nan, nan])")
    'found invalid values'
    """
    shown = (str(text) if isinstance(text, str | Exception) else repr(text))[:100_000]
    shown = re.split(r":?\s*\btensor\(\[|\n\s*Trace Shapes:", shown)[0]
    shown = " ".join("".join(c if c.isprintable() else " " for c in shown).split())
    return shown if len(shown) <= most else f"{shown[: most - 4]} ..."


def got(value: object) -> str:
    """A value as an error shows it: whole where it is short.

    >>> import numpy as np
    >>> got(-1), got(np.zeros((99, 99)))
    ('-1', 'a ndarray of shape [99, 99]')
    """
    shape = getattr(value, "shape", ())
    if isinstance(shape, tuple) and shape:
        return f"a {type(value).__name__} of shape {list(shape)}"
    try:
        return in_short(repr(value), 100)
    except Exception as error:  # of an object's own code, or a number of thousands of digits
        if isinstance(value, int):
            return f"a {type(value).__name__} of more than {sys.get_int_max_str_digits():,} digits"
        return f"a {type(value).__name__} that cannot be shown ({type(error).__name__})"


def whole_number(name: str, value: object, least: int = 1, most: float = math.inf) -> int:
    """``value``, if it is a whole number from ``least`` to ``most``; UsageError otherwise."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or not least <= cast(int, value) <= most:
        upper = "" if most == math.inf else f" and at most {most}"
        raise UsageError(
            f"{name} must be a whole number of at least {least}{upper}, got {got(value)}"
        )
    return int(cast(int, value))


def number(name: str, value: object, *, zero: bool = False) -> float:
    """``value`` as a float, if it is a positive number (0 too with ``zero``); UsageError
    otherwise."""
    try:
        real = isinstance(value, numbers.Real) and not isinstance(value, bool)
        found = float(cast(float, value)) if real else -math.inf
    except OverflowError:
        found = math.inf
    if not 0 <= found < math.inf or (found == 0 and not zero):
        words = "a number of at least 0" if zero else "a positive number"
        raise UsageError(f"{name} must be {words}, got {got(value)}")
    return found


def flag(name: str, value: object) -> bool:
    """``value``, if it is True or False; UsageError otherwise: "no" would pass for True."""
    import numpy as np  # which the command line's help does without

    if not isinstance(value, bool | np.bool_):
        raise UsageError(f"{name} must be True or False, got {got(value)}")
    return bool(value)


def reason(error: Exception) -> str:
    """The last line of what an error says, or its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def worker_lost(error: BaseException | None) -> UsageError | None:
    """What is said where a DataLoader's worker process is gone; None for another error.

    torch finds it out in a handler of SIGCHLD, which interrupts whatever runs at the moment.
    """
    while error is not None and not str(error).startswith(_LOST):
        if isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker (pid"):
            return lost(error)
        error = error.__cause__ or error.__context__
    return None


def lost(error: Exception) -> UsageError:
    """A worker process is gone, as this error shows."""
    return UsageError(
        f"{_LOST} ({in_short(reason(error))}): it was killed, by hand or for want of memory, or it "
        f"ended by itself; num_workers=0 does without and shows its own error, and a script whose "
        f"workers are spawned does its work under if __name__ == '__main__':"
    )


_LOST = "a worker process of the DataLoader is gone"
