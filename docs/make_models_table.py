"""Write docs/models.md: every model with its paper and its number of parameters, from the code itself."""

from pathlib import Path

import torch

import pixelwise as pw

HEAD = """# Models

Made by `make docs` from the code. Parameters are those of `build(NAME, 21)`.

| name | paper | year | encoder | parameters (M) | what it is |
|---|---|---|---|---|---|
"""


def main() -> None:
    """Write the table."""
    lines = []
    for name in pw.list_models():
        card = pw.describe(name)
        with torch.device("meta"):
            model = pw.build(name, 21)
        millions = sum(p.numel() for p in model.parameters()) / 1e6
        paper = f"[{card.paper.title}]({card.paper.url}) | {card.paper.year}"
        encoder = card.encoder or "own"
        lines.append(f"| `{name}` | {paper} | {encoder} | {millions:.1f} | {card.summary} |")
    (Path(__file__).parent / "models.md").write_text(HEAD + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
