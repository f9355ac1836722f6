"""Makes `reference.safetensors` again: what the reference implementations give for small pictures.

    pip install torch==2.15.0 torchvision==0.29.2 pillow==12.3.0 opencv-python-headless==5.0.0.93 safetensors numpy
    python make.py RANDAUGMENT

RANDAUGMENT: `transform/randaugment.py` of https://github.com/salesforce/BLIP.
"""

import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors.numpy import save_file
from torchvision import transforms
from torchvision.transforms import functional

SIDE = 24
RATIO = (3 / 4, 4 / 3)


class Draws:
    """Stands in for `torch` within torchvision: takes given uniform draws in the order of use."""

    log, tensor, exp = torch.log, torch.tensor, torch.exp

    def __init__(self, units):
        self.units = iter(units)

    def empty(self, _):
        return self

    def uniform_(self, least, most):
        return torch.tensor([float(least) + (float(most) - float(least)) * next(self.units)])

    def randint(self, low, high, size):
        return torch.tensor([low + int(next(self.units) * (high - low))])


def crop(image, scale, units):
    """`RandomResizedCrop.get_params` on given draws: left, top, width, height."""
    module = sys.modules[transforms.RandomResizedCrop.__module__]
    module.torch = Draws(units)
    top, left, height, width = transforms.RandomResizedCrop.get_params(image, scale, RATIO)
    module.torch = torch
    return [left, top, width, height]


def crops(draws):
    rows, areas = [], []
    sides = [(640, 480), (37, 90), (8, 400), (300, 5), (1, 1), (23, 36)]
    for width, height in sides * 8:
        least = float(draws.choice([0.05, 0.2, 0.5, 0.9, 1.0]))
        # A row of draws for each attempt: an attempt that fails takes the first two alone.
        units = draws.random((10, 4))
        used = []
        for attempt in units:
            area = width * height * (least + (1 - least) * attempt[0])
            log = [math.log(value) for value in RATIO]
            aspect = math.exp(log[0] + (log[1] - log[0]) * attempt[1])
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            used += list(attempt if 0 < w <= width and 0 < h <= height else attempt[:2])
        rows.append([width, height, least, *units.flatten()])
        areas.append(crop(Image.new("RGB", (width, height)), (least, 1.0), used))
    return np.array(rows), np.array(areas, np.int64)


def operations(blip, image, soft):
    """Each operation by name, magnitude and sign. The blocks of `soft` keep sharpness within a byte."""
    out = {}
    for magnitude in (2, 5, 9):
        level = magnitude / 10
        out[f"Brightness.{magnitude}.1"] = blip.brightness_func(image, level * 1.8 + 0.1)
        out[f"Sharpness.{magnitude}.1"] = blip.sharpness_func(soft, level * 1.8 + 0.1)
        for sign in (1, -1):
            grey = blip.replace_value
            out[f"ShearX.{magnitude}.{sign}"] = blip.shear_x_func(image, sign * level * 0.3, grey)
            out[f"ShearY.{magnitude}.{sign}"] = blip.shear_y_func(image, sign * level * 0.3, grey)
            out[f"TranslateX.{magnitude}.{sign}"] = blip.translate_x_func(image, sign * level * 10.0, grey)
            out[f"TranslateY.{magnitude}.{sign}"] = blip.translate_y_func(image, sign * level * 10.0, grey)
            out[f"Rotate.{magnitude}.{sign}"] = blip.rotate_func(image, sign * level * 30, grey)
    out["Equalize.5.1"] = blip.equalize_func(image)
    out["Identity.5.1"] = blip.identity_func(image)
    # BLIP's own function agrees with Pillow's only where the darkest value is 0.
    out["AutoContrast.5.1"] = np.asarray(ImageOps.autocontrast(Image.fromarray(image)))
    dark = image.copy()
    dark[0, 0] = 0
    assert (blip.autocontrast_func(dark) == np.asarray(ImageOps.autocontrast(Image.fromarray(dark)))).all()
    return out


def main():
    spec = importlib.util.spec_from_file_location("randaugment", sys.argv[1])
    blip = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(blip)
    draws = np.random.default_rng(0)
    # Values of 30 to 219 leave something to do for contrast and histogram.
    image = draws.integers(30, 220, (SIDE, SIDE, 3), dtype=np.uint8)
    soft = (image // 8 + 110).astype(np.uint8)
    tensors = {"image": image, "soft": soft}
    for name, values in operations(blip, image, soft).items():
        tensors[name] = np.ascontiguousarray(values)
    rows, areas = crops(draws)
    tensors["crop.draws"], tensors["crop.areas"] = rows, areas
    whole = draws.integers(0, 256, (31, 40, 3), dtype=np.uint8)
    part = functional.resized_crop(
        Image.fromarray(whole), 5, 3, 22, 29, [SIDE, SIDE], transforms.InterpolationMode.BICUBIC
    )
    tensors["whole"], tensors["resized_crop"] = whole, np.asarray(part)
    tensors["flipped"] = np.asarray(functional.hflip(Image.fromarray(image)))
    save_file({name: np.ascontiguousarray(values) for name, values in tensors.items()}, Path(__file__).parent / "reference.safetensors")


if __name__ == "__main__":
    main()
