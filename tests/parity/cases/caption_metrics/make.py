"""Makes this case again with the reference scorers.

    pip install pycocoevalcap==1.2 pycocotools safetensors numpy
    python make.py
"""

import json
from pathlib import Path

import numpy as np
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from safetensors.numpy import save_file

REFERENCES = {
    "0": ["a man riding a wave on a surfboard", "a surfer on a big wave", "a person surfs in the ocean"],
    "1": ["two dogs play with a red frisbee in the grass", "dogs playing on a lawn"],
    "2": ["a plate of food on a table", "a white plate with meat and vegetables", "dinner is served"],
    "3": ["a black-and-white photo of a train", "an old train at a station", "the train 's smoke"],
    "4": ["a cat sleeps on a couch"],
    "5": ["people walk down a street in the rain", "a rainy street with people and umbrellas"],
}
CANDIDATES = {
    "0": "a man on a wave",
    "1": "two dogs playing with a frisbee in the grass",
    "2": "a plate of food",
    "3": "the the the the",
    "4": "a cat sleeps on a couch",
    "5": "bicycles",
}


def main():
    folder = Path(__file__).parent
    truths = {int(k): v for k, v in REFERENCES.items()}
    results = {int(k): [v] for k, v in CANDIDATES.items()}
    bleu, bleu_each = Bleu(4).compute_score(truths, results, verbose=0)
    cider, cider_each = Cider().compute_score(truths, results)
    rouge, rouge_each = Rouge().compute_score(truths, results)
    outputs = {
        "bleu": bleu,
        "bleu_per_image": bleu_each,
        "cider": cider,
        "cider_per_image": cider_each,
        "rouge_l": rouge,
        "rouge_l_per_image": rouge_each,
    }
    outputs = {name: np.asarray(value, dtype=np.float64) for name, value in outputs.items()}
    save_file(outputs, folder / "outputs.safetensors")
    save_file({"n": np.asarray(len(truths), dtype=np.int64)}, folder / "inputs.safetensors")
    config = {"references": REFERENCES, "candidates": CANDIDATES}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    meta = {
        "cls": "pycocoevalcap Bleu(4) / Rouge / Cider",
        "notes": "pycocoevalcap 1.2; the texts are tokenised already",
        "tolerance": {"*": [1e-06, 0]},
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")


if __name__ == "__main__":
    main()
