"""Makes the cases of Hugging Face's CLIP and BLIP image processors again.

    pip install torch==2.15.0 torchvision transformers==5.23.0 pillow==12.3.0 safetensors numpy
    python make.py

The reference is the Pillow backend, which reads the very files that lie in the folders of the case.
Pillow 13 resamples some pictures down before across and differs from all earlier releases by up to 2 of 255.
`meta.json` records how far the torchvision backend differs from it: its resampling keeps fewer bits of
each coefficient, and it pads a small picture at another place.
"""

import json
from pathlib import Path

import numpy as np
import PIL
from PIL import Image
from safetensors.numpy import save_file
from transformers import BlipImageProcessor, CLIPImageProcessor
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

FLAT = "preprocessor_config.json"
NESTED = "processor_config.json"
CLIP = {"image_processor_type": "CLIPImageProcessor"}
BLIP = {"image_processor_type": "BlipImageProcessor"}
COLOURS = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}

CLIP_FILES = {
    "integers": {
        "crop_size": 12,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "resample": 3,
        "size": 12,
        **COLOURS,
    },
    "tables": {**CLIP, "size": {"shortest_edge": 15}, "crop_size": {"height": 12, "width": 12}, "do_convert_rgb": True},
    "stretched": {**CLIP, "size": {"height": 16, "width": 13}, "crop_size": [12, 12]},
    "no_resize": {**CLIP, "do_resize": False, "crop_size": 12},
    "padded": {**CLIP, "size": 9, "crop_size": 12},
    "no_crop": {**CLIP, "size": {"height": 12, "width": 12}, "do_center_crop": False},
    "no_rescale": {**CLIP, "size": 12, "crop_size": 12, "do_rescale": False, "image_mean": 120.0, "image_std": 70.0},
    "rescale_factor": {**CLIP, "size": 12, "crop_size": 12, "rescale_factor": 0.0078125, "image_mean": [1, 1, 1]},
    "no_normalize": {**CLIP, "size": 12, "crop_size": 12, "do_normalize": False},
    "nearest": {**CLIP, "size": 12, "crop_size": 12, "resample": 0},
    "lanczos": {**CLIP, "size": 12, "crop_size": 12, "resample": 1},
    "bilinear": {**CLIP, "size": 12, "crop_size": 12, "resample": 2},
    "box": {**CLIP, "size": 12, "crop_size": 12, "resample": 4},
    "hamming": {**CLIP, "size": 12, "crop_size": 12, "resample": 5},
    "nested_fast": {
        "image_processor": {"image_processor_type": "CLIPImageProcessorFast", "size": 12, "crop_size": 12},
        "processor_class": "CLIPProcessor",
    },
}
BLIP_FILES = {
    "integer": {**BLIP, "size": 12},
    "early": {
        **BLIP,
        **COLOURS,
        "do_normalize": True,
        "do_pad": True,
        "do_rescale": True,
        "do_resize": True,
        "processor_class": "BlipProcessor",
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"height": 12, "width": 12},
        "size_divisor": 32,
    },
    "shortest": {**BLIP, "size": {"shortest_edge": 14}, "do_center_crop": True, "crop_size": 12},
    "no_rescale": {**BLIP, "size": [12, 12], "do_rescale": False, "do_normalize": False, "resample": 2},
    "nested": {"image_processor": {**BLIP, "size": {"height": 12, "width": 12}}, "processor_class": "BlipProcessor"},
}


def pictures():
    """Noise is the hardest picture for rounding: one larger, one smaller than the target."""
    draws = np.random.default_rng(0)
    sides = {"wide": (23, 36), "high": (41, 20), "small": (7, 10)}
    return {name: draws.integers(0, 256, (*side, 3), dtype=np.uint8) for name, side in sides.items()}


def make(folder, name, pil, torchvision, files):
    inputs, outputs, apart = pictures(), {}, {}
    for configuration, values in files.items():
        place = folder / configuration
        place.mkdir(parents=True, exist_ok=True)
        file = NESTED if "image_processor" in values else FLAT
        (place / file).write_text(json.dumps(values, indent=1) + "\n")
        for picture, array in inputs.items():
            image = Image.fromarray(array)
            run = lambda cls: cls.from_pretrained(place)(image, return_tensors="np")["pixel_values"][0]
            values_of = np.ascontiguousarray(run(pil).astype(np.float32))
            outputs[f"{configuration}.{picture}"] = values_of
            try:
                other = run(torchvision)
            except (ValueError, KeyError, AttributeError, RuntimeError) as error:
                apart[f"{configuration}.{picture}"] = type(error).__name__
                continue
            apart[f"{configuration}.{picture}"] = round(float(np.abs(values_of - other).max()), 4)
    save_file(inputs, folder / "inputs.safetensors")
    save_file(outputs, folder / "outputs.safetensors")
    meta = {
        "cls": f"transformers.{name}",
        "notes": f"transformers 5.23.0, Pillow backend, Pillow {PIL.__version__}",
        "tolerance": {"*": [2e-6, 2e-6]},
        "torchvision_backend_differs_by": apart,
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")


if __name__ == "__main__":
    here = Path(__file__).parent
    make(here, "CLIPImageProcessor", CLIPImageProcessorPil, CLIPImageProcessor, CLIP_FILES)
    make(here.parent / "preprocess_blip", "BlipImageProcessor", BlipImageProcessorPil, BlipImageProcessor, BLIP_FILES)
