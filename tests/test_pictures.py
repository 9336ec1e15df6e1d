"""Pictures as people have them: sizes, modes, layouts, the value of white."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import nn

import pyrovae as pv
from pyrovae import guides, likelihoods, networks
from pyrovae.arrays import channels_last
from pyrovae.data import FileData, UsageError, as_data, load
from pyrovae.pictures import Pictures
from pyrovae.sources import ArrayFile

RED, GREEN = (200, 30, 40), (10, 180, 60)


def photo(height: int, width: int, colour: Any = RED, mode: str = "RGB") -> Image.Image:
    """A flat picture with a brighter middle."""
    image = Image.new("RGB", (width, height), colour)
    image.paste((250, 250, 250), (width // 4, height // 4, 3 * width // 4, 3 * height // 4))
    return image.convert(mode)


def save(folder: Path, **images: Image.Image) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in images.items():
        image.save(folder / f"{name}.png")
    return folder


def stored(folder: Path, **options: Any) -> tuple[np.ndarray, pv.data.Splits]:
    """The pictures of a folder [N, C, H, W], in the order of their names, and what is said."""
    splits = load(folder, stream=True, **options)
    source = splits.train.source
    return source.all().tensors[0].numpy(), splits


# --- sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("resize", [(24, 32), "24x32", "24X32"])
def test_pictures_of_any_size_cover_the_one_that_is_asked_for(tmp_path: Path, resize: Any) -> None:
    images = {"a": photo(60, 80), "b": photo(90, 50, GREEN), "c": photo(24, 32), "d": photo(9, 9)}
    found = load(save(tmp_path, **images), resize=resize)
    assert found.train.event_shape == found.test.event_shape == (3, 24, 32)
    assert found.description.endswith("scaled and cut to 24 x 32")
    x, _ = stored(tmp_path, resize=resize)
    for picture, image in zip(x, images.values(), strict=True):
        expected = np.asarray(ImageOps.fit(image, (32, 24), Image.Resampling.BILINEAR))
        assert np.array_equal(picture, expected.transpose(2, 0, 1))
    assert np.array_equal(x[2], np.asarray(images["c"]).transpose(2, 0, 1))  # as it was


def test_unequal_sizes_name_the_way_out(tmp_path: Path) -> None:
    save(tmp_path, a=photo(60, 80), b=photo(90, 50))
    with pytest.raises(UsageError, match=r"a\.png is 60 x 80, .*b\.png is 90 x 50; .*--resize HxW"):
        load(tmp_path)
    assert load(tmp_path, resize=16).train.event_shape == (3, 16, 16)


@pytest.mark.parametrize("resize", ["x", "3x", "0x4", (1, 2, 3), 2.5, (4, 4.5), -1, True, "axb"])
def test_sizes_that_are_none(tmp_path: Path, resize: Any) -> None:
    with pytest.raises(UsageError, match="resize"):
        load(save(tmp_path, a=photo(8, 8), b=photo(8, 8)), resize=resize)


def test_resize_is_of_pictures(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((5, 8, 8), "f4"))
    for name in (tmp_path / "x.npy", "mnist5k"):
        with pytest.raises(UsageError, match=r"--resize.* is of folders"):
            load(name, resize=4)


def test_photographs_are_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera on its side
    lying = photo(20, 30)
    lying.putpixel((0, 0), (0, 0, 0))
    for name in "ab":
        lying.save(tmp_path / f"{name}.png", exif=exif)
    assert load(tmp_path).train.event_shape == (3, 30, 20)


# --- modes ---------------------------------------------------------------------------------------


def test_grey_beside_colour_becomes_colour_and_is_said(tmp_path: Path) -> None:
    grey = photo(12, 10, mode="L")
    save(tmp_path / "x", a=grey, b=photo(12, 10, GREEN), c=photo(12, 10, mode="LA"), d=grey)
    x, _ = stored(tmp_path / "x")
    assert x.shape == (4, 3, 12, 10)
    assert np.array_equal(x[0], np.stack([np.asarray(grey)] * 3))
    assert "3 grey pictures made RGB" in load(tmp_path / "x").description
    save(tmp_path / "y", a=grey, b=grey)
    assert load(tmp_path / "y").train.event_shape == (1, 12, 10)
    assert "RGB" not in load(tmp_path / "y").description


@pytest.mark.parametrize("coloured", ["train", "test"])
def test_one_grey_part_becomes_colour_too(tmp_path: Path, coloured: str) -> None:
    for part in ("train", "test"):
        mode = "RGB" if part == coloured else "L"
        save(tmp_path / part, a=photo(8, 6, mode=mode), b=photo(8, 6, mode=mode))
    splits = load(tmp_path)
    assert splits.train.event_shape == splits.test.event_shape == (3, 8, 6)


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    clear, half = photo(8, 8, mode="RGBA"), Image.new("RGBA", (8, 8), (0, 100, 200, 51))
    ink = Image.new("LA", (8, 8), (0, 255))
    x, _ = stored(save(tmp_path, a=clear, b=half, c=ink, d=photo(8, 8)))
    assert np.array_equal(x[0], x[3])  # of full opacity: as without
    expected = [round(51 / 255 * c + 204 / 255 * 255) for c in (0, 100, 200)]
    assert np.abs(x[1, :, 0, 0].astype(int) - expected).max() <= 1
    assert (x[2] == 0).all()
    assert "1 pictures with transparent parts laid on white" in load(tmp_path).description


def test_palettes_are_their_colours(tmp_path: Path) -> None:
    flat = photo(8, 8)
    images = {"a": flat.quantize(8), "b": flat}
    images["a"].save(tmp_path / "a.gif")
    flat.save(tmp_path / "b.png")
    x, _ = stored(tmp_path)
    assert np.abs(x[0].astype(int) - x[1]).max() <= 2
    marked = flat.quantize(8)
    marked.save(tmp_path / "a.png", transparency=marked.getpixel((0, 0)))
    x, _ = stored(tmp_path)
    assert (x[1, :, 0, 0] == 255).all()  # a.png: its ground is transparent


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_more_than_eight_bits_are_refused(tmp_path: Path, mode: str) -> None:
    for name in "ab":
        Image.new(mode, (4, 4)).save(tmp_path / f"{name}.tif")
    with pytest.raises(UsageError, match=rf"a\.tif: its mode is {mode}.*\.npy.*--scale"):
        load(tmp_path)


def test_no_other_format_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An EPS would be handed to Ghostscript."""
    from PIL import EpsImagePlugin

    called: list[object] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *a, **k: called.append(a))
    photo(8, 8).save(tmp_path / "b.png")
    photo(8, 8).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(UsageError, match=r"a\.png cannot be read: cannot identify"):
        load(tmp_path)
    assert not called


@pytest.mark.parametrize("factor", [1.5, 3.0])  # where Pillow would warn, and where it raises
def test_enormous_pictures_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    save(tmp_path, a=photo(30, 40), b=photo(30, 40))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", round(1200 / factor))
    with pytest.raises(UsageError, match=r"a\.png: it has more than \d+ pixels.*make it smaller"):
        load(tmp_path)


# --- layouts of arrays ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "last"),
    [
        ((28, 28, 1), True), ((32, 30, 3), True), ((9, 5, 4), True),
        ((1, 28, 28), False), ((3, 32, 32), False), ((1, 4, 4), False), ((16, 8, 8), False),
        ((10, 2, 2), False), ((1, 28, 1), False), ((7,), False), ((10, 3), False),
        ((3, 3, 3), None), ((3, 64, 3), None), ((4, 28, 28, 3)[:3], False), ((4, 9, 3), None),
    ],
)  # fmt: skip
def test_the_shape_tells_the_layout(shape: tuple[int, ...], last: bool | None) -> None:
    assert channels_last(shape) is last


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("dtype", ["f4", "f8", "u1", "i4"])
def test_channels_last_are_put_first(tmp_path: Path, dtype: str, stream: bool) -> None:
    x = (np.arange(12 * 9 * 7 * 3).reshape(12, 9, 7, 3) % 256).astype(dtype)
    np.save(tmp_path / "x.npy", x)
    splits = load(tmp_path / "x.npy", stream=stream)
    assert splits.train.event_shape == splits.test.event_shape == (3, 9, 7)
    assert "channels last, which were put first: [3, 9, 7]" in splits.description
    whole = ArrayFile(tmp_path / "x.npy").all().x.numpy()
    assert np.allclose(whole, x.transpose(0, 3, 1, 2) / (255 if dtype == "u1" else 1))
    np.savez(tmp_path / "x.npz", x_train=x, x_test=x[:2])
    assert np.array_equal(load(tmp_path / "x.npz").train.x, whole)


def test_what_may_be_either_is_asked_for(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((9, 3, 5, 3)).astype("f4")
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x=x)
    for name in ("x.npy", "x.npz"):
        with pytest.raises(UsageError, match=rf"{name}.*channels first or last.*--layout"):
            load(tmp_path / name)
        first = load(tmp_path / name, layout="channels_first")
        last = load(tmp_path / name, layout="channels_last")
        assert (first.train.event_shape, last.train.event_shape) == ((3, 5, 3), (3, 3, 5))
        assert torch.equal(last.train.x, first.train.x.permute(0, 3, 1, 2))


def test_a_layout_gives_grey_images_their_channel(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((9, 6, 5), "f4"))
    assert load(tmp_path / "x.npy").train.event_shape == (6, 5)  # perhaps a series
    for layout in ("channels_first", "channels_last"):
        assert load(tmp_path / "x.npy", layout=layout).train.event_shape == (1, 6, 5)


def test_layouts_that_are_none(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((9, 6), "f4"))
    with pytest.raises(UsageError, match=r"did you mean 'channels_last'\?"):
        load(tmp_path / "x.npy", layout="channel_last")
    with pytest.raises(UsageError, match=r"--layout.* is \[N, 6\]"):
        load(tmp_path / "x.npy", layout="channels_last")
    with pytest.raises(UsageError, match=r"--layout.*is of arrays"):
        load(save(tmp_path / "f", a=photo(8, 8), b=photo(8, 8)), layout="channels_last")


class Lazy(nn.Module):
    """A network of one's own, which takes as many channels as come."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.LazyConv2d(4, 1), nn.Flatten(), nn.LazyLinear(4))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.layers(x).chunk(2, -1)


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_no_network_takes_rows_for_channels() -> None:
    for network in (Lazy(), networks.ConvNet([4])):
        with pytest.raises(UsageError, match=r"would be 28 channels of 28 x 1.*--layout"):
            pv.VAE((28, 28, 1), 2, guide=guides.MeanField(network))
    pv.VAE((1, 28, 28), 2, guide=guides.MeanField(Lazy()))
    pv.VAE((28, 28, 1), 2, guide=guides.MeanField(networks.MLP([4])))  # knows no rows


def test_channels_last_are_drawn_as_they_are_meant() -> None:
    plt = pytest.importorskip("matplotlib.pyplot")
    first = torch.rand(6, 3, 9, 7)
    last = first.permute(0, 2, 3, 1)

    def drawn(axes: Any) -> np.ndarray:
        return np.asarray(axes.images[0].get_array())

    pairs = [
        (pv.plots.data_grid(first), pv.plots.data_grid(last)),
        (pv.plots.reconstructions(first, first), pv.plots.reconstructions(last, last)),
        (pv.plots.interpolation(first[None]), pv.plots.interpolation(last[None])),
        (pv.plots.traversal(first[None]), pv.plots.traversal(last[None])),
    ]
    for one, other in pairs:
        assert np.array_equal(drawn(one), drawn(other))
    plt.close("all")


# --- the value of white --------------------------------------------------------------------------


def counts() -> np.ndarray:
    return np.random.default_rng(0).poisson(6.0, (40, 4, 5)).astype(np.uint8)


@pytest.mark.parametrize("stream", [True, False])
def test_scale_says_what_values_leave_open(tmp_path: Path, stream: bool) -> None:
    np.save(tmp_path / "x.npy", counts())
    with pytest.raises(UsageError, match=r"scale=255 for pixels, scale=1 .*\(--scale"):
        load(tmp_path / "x.npy", stream=stream)
    kept = load(tmp_path / "x.npy", scale=1, stream=stream).train
    assert kept.divisor is None and kept.event_shape == (4, 5) and kept.stores_integers
    pixels = load(tmp_path / "x.npy", scale=255, stream=stream).train
    assert (pixels.divisor, pixels.maximum, pixels.event_shape) == (255, 1.0, (1, 4, 5))
    (a,), (b,) = next(kept.batches(36)), next(pixels.batches(36))
    assert torch.allclose(a / 255, b[:, 0])


def test_scale_is_of_any_dtype(tmp_path: Path) -> None:
    deep = np.arange(8 * 25, dtype=np.uint16).reshape(8, 5, 5) * 300
    np.save(tmp_path / "deep.npy", deep)
    whole = load(tmp_path / "deep.npy", scale=65535, stream=True).train.source.all()
    assert torch.allclose(whole.x[:, 0], torch.tensor(deep / 65535, dtype=torch.float32))
    np.savetxt(tmp_path / "x.csv", deep.reshape(8, 25) % 256, "%d", ",")
    with pytest.raises(UsageError, match=r"x\.csv is a table, whose columns stay in their own"):
        load(tmp_path / "x.csv", scale=255)
    with pytest.raises(UsageError, match=r"value of white, 255, and x goes from 0 to \d+"):
        load(tmp_path / "deep.npy", scale=255)
    with pytest.raises(UsageError, match="scale must be a positive number"):
        load(tmp_path / "deep.npy", scale=0)


def test_scale_of_pictures_and_named_sets(tmp_path: Path) -> None:
    save(tmp_path, a=photo(8, 8), b=photo(8, 8))
    assert load(tmp_path).train.x.max() <= 1
    assert load(tmp_path, scale=1).train.x.max() == 250
    digits = load("mnist5k", scale=1)
    assert digits.train.x.max() == digits.test.x.max() == 255 and digits.test.labels is not None
    assert torch.equal(digits.train.x / 255, load("mnist5k").train.x)


WHOLE = [
    likelihoods.Poisson, likelihoods.NegativeBinomial, likelihoods.ZeroInflatedNegativeBinomial,
    lambda: likelihoods.Binomial(30), lambda: likelihoods.BetaBinomial(30),
    lambda: likelihoods.Categorical(30),
]  # fmt: skip


@pytest.mark.parametrize("likelihood", WHOLE)
def test_a_likelihood_of_whole_numbers_takes_them_as_they_are(likelihood: Any) -> None:
    x = counts()
    torch.manual_seed(0)
    vae = pv.VAE((4, 5), 2, likelihood=likelihood())
    elbo = pv.elbo(vae, x, 3, seed=1)
    assert torch.allclose(elbo, pv.elbo(vae, x.astype("f4"), 3, seed=1))
    pv.fit(vae, x, epochs=1, batch_size=20, validation=x[:5], progress=False)


def test_other_likelihoods_are_not_told() -> None:
    for likelihood in (likelihoods.Normal(), likelihoods.Bernoulli()):
        with pytest.raises(UsageError, match="8-bit pixels or other numbers"):
            pv.fit(pv.VAE((4, 5), 2, likelihood=likelihood), counts(), epochs=1, progress=False)
    assert torch.equal(as_data(counts(), scale=1).x, torch.tensor(counts()).float())
    assert as_data(counts(), scale=255).divisor == 255


def test_a_loader_is_told_too() -> None:
    x = torch.from_numpy(counts())
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=20)
    (served,) = next(as_data(loader, scale=1).batches())
    assert torch.equal(served, x[:20].float())
    with pytest.raises(UsageError, match="8-bit pixels"):
        next(as_data(loader).batches())


# --- the command line ----------------------------------------------------------------------------


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        pv.cli.main([str(word) for word in words])
    return int(ended.value.code)


SMALL = ("--epochs", 1, "--batch-size", 4, "--quiet", "--num-particles", 5, "--latent-dim", 2,
         "--likelihood.network.hidden", "[8]", "--guide.network.hidden", "[8]")  # fmt: skip


def test_a_folder_of_photographs_on_the_command_line(tmp_path: Path, capsys: Any) -> None:
    for i in range(12):
        mode = "L" if i % 3 == 0 else "RGB"
        save(tmp_path / "photos", **{f"{i}": photo(20 + i, 30 - i, mode=mode)})
    out = tmp_path / "run"
    assert run("fit", "--data", tmp_path / "photos", "--likelihood", "Normal", *SMALL) == 2
    assert "--resize HxW" in capsys.readouterr().err
    given = ("--resize", "12x10", "--likelihood", "Normal", "--out", out, *SMALL)
    assert run("fit", "--data", tmp_path / "photos", *given) == 0
    said = capsys.readouterr()
    assert "grey pictures made RGB" in said.out + said.err
    assert pv.load(out).event_shape == (3, 12, 10)
    assert run("reconstruct", out, "--n", 2) == 0  # the size is the run's
    save(tmp_path / "others", a=photo(40, 40), b=photo(30, 50), c=photo(30, 50))
    assert run("evaluate", out, "--data", tmp_path / "others", "--num-particles", 5) == 0
    assert run("info", "--data", tmp_path / "photos", "--resize", 16) == 0
    assert "shape [3, 16, 16]" in capsys.readouterr().out


def test_uint8_on_the_command_line(tmp_path: Path, capsys: Any) -> None:
    np.save(tmp_path / "x.npy", counts())
    fit = ("fit", "--data", tmp_path / "x.npy", *SMALL)
    assert run(*fit, "--likelihood", "Normal") == 2
    assert "--scale on the command line" in capsys.readouterr().err
    assert run(*fit, "--likelihood", "Normal", "--scale", 255, "--out", tmp_path / "a") == 0
    assert pv.load(tmp_path / "a").event_shape == (1, 4, 5)
    assert run(*fit, "--likelihood", "Poisson", "--out", tmp_path / "b") == 0
    assert pv.load(tmp_path / "b").event_shape == (4, 5)
    for name in "ab":
        assert run("evaluate", tmp_path / name, "--num-particles", 5) == 0
    assert run("info", "--data", tmp_path / "x.npy", "--scale", 1) == 0
    assert "whole numbers, from 0" in capsys.readouterr().out


def test_what_is_asked_for_is_checked_once() -> None:
    assert Pictures.of() == Pictures()
    assert Pictures.of(8, "channels_last", 255) == Pictures((8, 8), "channels_last", 255.0)
    assert FileData is pv.data.FileData
