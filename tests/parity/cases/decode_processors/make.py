"""Makes this case again with the reference implementation.

    pip install torch==2.15.0 transformers==5.23.0 safetensors numpy
    python make.py
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers.generation import logits_process as p

STOP = 3
NEVER = -1e30


def main():
    folder = Path(__file__).parent
    torch.manual_seed(0)
    logits = torch.randn(3, 40) * 3
    input_ids = torch.tensor([[5, 6, 5, 7, 5], [1, 2, 3, 1, 2], [9, 9, 8, 30, 9]])
    chains = {
        "repetition_1_1": [p.RepetitionPenaltyLogitsProcessor(1.1)],
        "no_repeat_2gram": [p.NoRepeatNGramLogitsProcessor(2)],
        "min_length_10_eos3": [p.MinLengthLogitsProcessor(10, STOP)],
        "temperature_0_7": [p.TemperatureLogitsWarper(0.7)],
        "top_k_5": [p.TopKLogitsWarper(5)],
        "top_p_0_3": [p.TopPLogitsWarper(0.3)],
        "top_p_0_9": [p.TopPLogitsWarper(0.9)],
        "capfilt_chain_rep1.1_min10_temp0.9_top_p0.9": [
            p.RepetitionPenaltyLogitsProcessor(1.1),
            p.MinLengthLogitsProcessor(10, STOP),
            p.TemperatureLogitsWarper(0.9),
            p.TopPLogitsWarper(0.9),
        ],
    }
    outputs = {}
    for name, chain in chains.items():
        scores = logits.clone()
        for processor in chain:
            scores = processor(input_ids, scores)
        outputs[name] = torch.where(torch.isinf(scores), torch.full_like(scores, NEVER), scores).contiguous()
    save_file({"input_ids": input_ids, "logits": logits}, folder / "inputs.safetensors")
    save_file(outputs, folder / "outputs.safetensors")
    (folder / "config.json").write_text(json.dumps({"minus_inf_encoded_as": NEVER}) + "\n")
    meta = {"cls": "transformers.generation.logits_process", "notes": "transformers 5.23.0"}
    (folder / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")


if __name__ == "__main__":
    main()
