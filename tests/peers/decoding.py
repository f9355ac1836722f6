"""Compares our JPEG decoder, resizing and cropping with Pillow's.

    pip install pillow==12.3.0 numpy
    pip download --no-deps scikit-image scikit-learn && unzip -oj '*.whl' '*.jpg' '*.png' -d PHOTOGRAPHS
    cargo build --release -p capstan-model --example decode_pictures
    python decoding.py target/release/examples/decode_pictures FOLDER [FOLDER ...]

Each FOLDER holds pictures. Its JPEG files are compared as they are. Its PNG files are first encoded as JPEG in
several ways: 4:4:4, 4:2:2 and 4:2:0, baseline and progressive, grey, CMYK, and with an EXIF orientation.
Prints, for each group of files: PSNR of the decoded colours (lowest and mean over the files) and the
difference after the preparation of CLIP at 224 pixels, in levels of 255 (largest, and mean of all values).
With torch and transformers installed also the shift of CLIP's features: one minus the cosine between the
features of both decodings, as a share of one minus the mean cosine between different pictures. The network
is of ViT-B/32's shape with random weights; the share makes up for their features being alike.

Pillow ignores an EXIF orientation unless `ImageOps.exif_transpose` is called.
"""

import io
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 224


def encodings(image):
    """JPEG files of one picture by the group that they belong to."""
    orientation = Image.Exif()
    orientation[0x0112] = 6
    ways = {
        "444": (image, {"subsampling": 0}),
        "422": (image, {"subsampling": 1}),
        "420": (image, {"subsampling": 2}),
        "420-progressive": (image, {"subsampling": 2, "progressive": True}),
        "420-quality-95": (image, {"subsampling": 2, "quality": 95}),
        "grey": (image.convert("L"), {}),
        "cmyk": (image.convert("CMYK"), {}),
        "exif-orientation-6": (image, {"subsampling": 2, "exif": orientation}),
    }
    for group, (form, options) in ways.items():
        file = io.BytesIO()
        form.save(file, "JPEG", **{"quality": 85, **options})
        yield group, file.getvalue()


def jpeg_group(image):
    """Group of a JPEG file that is taken as it is."""
    layers = [layer[1:3] for layer in image.layer]
    sampling = "grey" if len(layers) == 1 else "420" if layers[0] == (2, 2) else "444" if layers[0] == (1, 1) else "other"
    return f"files-{sampling}" + ("-progressive" if image.info.get("progressive") else "")


def gather(folders, place):
    groups = {}
    for path in sorted(file for folder in folders for file in Path(folder).iterdir()):
        try:
            image = Image.open(path)
            image.load()
        except OSError:
            continue
        if image.format == "JPEG":
            groups[path.name] = jpeg_group(image)
            (place / path.name).write_bytes(path.read_bytes())
        elif image.format == "PNG" and image.mode == "RGB":
            for group, data in encodings(image):
                name = f"{path.stem}-{group}.jpg"
                groups[name] = f"photographs-{group}"
                (place / name).write_bytes(data)
    return groups


def clip(image):
    """Hugging Face's CLIPImageProcessor up to the normalisation."""
    short = min(image.size)
    width, height = (SIDE if edge == short else SIDE * edge // short for edge in image.size)
    left, top = (width - SIDE) // 2, (height - SIDE) // 2
    return image.resize((width, height), Image.BICUBIC).crop((left, top, left + SIDE, top + SIDE))


def values(image):
    return np.asarray(image.convert("RGB")).astype(np.float64)


def encoder():
    """Features of unit length of prepared pictures; None without torch and transformers."""
    try:
        import torch
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
    except ImportError:
        return None
    torch.manual_seed(1)
    network = CLIPVisionModelWithProjection(CLIPVisionConfig(projection_dim=512)).eval()
    mean = np.array([0.48145466, 0.4578275, 0.40821073])
    deviation = np.array([0.26862954, 0.26130258, 0.27577711])

    def features(pixels):
        pixels = ((pixels / 255 - mean) / deviation).transpose(2, 0, 1)
        with torch.inference_mode():
            found = network(torch.tensor(pixels[None], dtype=torch.float32)).image_embeds[0].double().numpy()
        return found / np.linalg.norm(found)

    return features


def main():
    program, *folders = sys.argv[1:]
    with tempfile.TemporaryDirectory() as temporary:
        pictures, ours = Path(temporary, "pictures"), Path(temporary, "ours")
        pictures.mkdir()
        ours.mkdir()
        groups = gather(folders, pictures)
        subprocess.run([program, pictures, ours], check=True)
        figures, shifts, all_features = defaultdict(list), defaultdict(list), []
        features = encoder()
        for name, group in groups.items():
            whole, prepared = ours / f"{name}.whole.ppm", ours / f"{name}.clip.ppm"
            if not whole.exists():
                print(f"{name}: Pillow decodes it, we do not")
                continue
            reference = Image.open(pictures / name).convert("RGB")
            error = ((values(reference) - values(Image.open(whole))) ** 2).mean()
            psnr = 10 * np.log10(255**2 / error) if error else np.inf
            theirs, own = values(clip(reference)), values(Image.open(prepared))
            apart = np.abs(theirs - own)
            if features:
                feature = features(theirs)
                shifts[group].append(1 - feature @ features(own))
                all_features.append(feature)
            figures[group].append((psnr, apart.max(), apart.mean()))
    if features:
        similar = np.array(all_features) @ np.array(all_features).T
        between = 1 - similar[np.triu_indices(len(similar), 1)].mean()
    print(f"{'group':36} files  PSNR lowest   mean   224 px: max   mean" + "   features: max   mean" * bool(features))
    for group, rows in sorted(figures.items()):
        psnr, most, mean = zip(*rows)
        finite = [value for value in psnr if np.isfinite(value)]
        average = np.mean(finite) if finite else np.inf
        line = f"{group:36} {len(rows):5}  {min(psnr):11.1f} {average:6.1f} {max(most):13.0f} {np.mean(mean):6.3f}"
        if features:
            shift = np.array(shifts[group]) / between
            line += f"  {shift.max():14.1e} {shift.mean():7.1e}"
        print(line)


if __name__ == "__main__":
    main()
