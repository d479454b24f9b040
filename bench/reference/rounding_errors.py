"""What rounding to 16 bits costs the reference on the golden fixtures: the largest difference of last logits, of the margin of any
step (both by the largest logit), and of the likelihood. test/golden/cuda.test.ts takes bounds from what this prints.

usage: python bench/reference/rounding_errors.py test/fixtures/models/NAME …   (torch and transformers, on a CPU)
"""

import json
import sys

import torch
from transformers import AutoModelForCausalLM


@torch.no_grad()
def logits_of(model, golden):
    """Last logits after each prompt and each of its greedy tokens, and the likelihood of the text."""
    rows = []
    for prompt, greedy in zip(golden["input_ids"], golden["greedy"]):
        ids = torch.tensor([list(prompt) + list(greedy[:-1])])
        rows.append(model(ids).logits[0, len(prompt) - 1 :].float())
    ids = torch.tensor([golden["nll_ids"]])
    losses = torch.log_softmax(model(ids).logits[0, :-1].float(), dim=-1)
    nll = -losses.gather(1, ids[0, 1:, None]).mean().item()
    return rows, nll


def margins(row, greedy):
    others = row.clone()
    index = torch.arange(len(greedy))
    others[index, greedy] = float("-inf")
    return row[index, greedy] - others.max(dim=-1).values


def main():
    torch.set_num_threads(1)
    result = {}
    for folder in sys.argv[1:]:
        name = folder.rstrip("/").split("/")[-1]
        with open(f"{folder}/golden.json") as file:
            golden = json.load(file)
        try:
            # With what some models keep in float32 otherwise, and on a CPU cannot multiply then.
            load = lambda dtype: AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval().to(dtype)
            exact, exact_nll = logits_of(load(torch.float32), golden)
            rounded, rounded_nll = logits_of(load(torch.bfloat16), golden)
        except Exception as error:  # a fixture that the reference does not open
            print(name, repr(error)[:100], file=sys.stderr)
            continue
        logits = steps = 0.0
        for before, after, tokens in zip(exact, rounded, golden["greedy"]):
            greedy = torch.tensor(tokens)
            scale = before.abs().max(dim=-1).values
            logits = max(logits, ((after - before).abs().max(dim=-1).values / scale).max().item())
            steps = max(steps, ((margins(after, greedy) - margins(before, greedy)).abs() / scale).max().item())
        nll = abs(rounded_nll - exact_nll) / exact_nll
        result[name] = {"logits": round(logits, 4), "steps": round(steps, 4), "nll": round(nll, 5)}
        print(name, result[name], file=sys.stderr, flush=True)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
