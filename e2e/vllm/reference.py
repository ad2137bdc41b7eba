"""vLLM in one process, without a connector. Standard input: {name: token ids}, standard output: {name: answer}.
Arguments: the model, how many tokens an answer has, and {name: tokens} for those that have another number."""

from __future__ import annotations

import json
import sys

from one_process import Vllm


def main(model: str, new_tokens: int, others: dict[str, int]) -> None:
    vllm = Vllm(model, None)
    prompts = json.load(sys.stdin)
    print(
        json.dumps({name: vllm.ask(prompt, others.get(name, new_tokens)) for name, prompt in prompts.items()})
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]) if len(sys.argv) > 3 else {})
