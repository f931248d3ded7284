"""One of the processes of a training on several devices: see `distributed`."""

import os
import sys
from pathlib import Path

from ..interruption import Terminated, terminable
from ..recipe import Recipe
from .callbacks import LAST, RECIPE
from .run import fit, make_experiment


def main(path: str, messages: str, progress: str, machines: str) -> int:
    """Train; the exit code. What goes wrong is written to a file in `messages`."""
    rank = int(os.environ["LOCAL_RANK"])  # on this machine
    try:
        with terminable():
            run = Path(path)
            recipe, continued = Recipe.read(run / RECIPE), (run / LAST).is_file()
            before = int(os.environ["NODE_RANK"]) * (recipe.devices // int(machines))
            experiment = make_experiment(recipe, rank=before + rank, continued=continued)
            fit(experiment, run, resumed=True, progress=progress == "1", machines=int(machines))
    except Terminated as error:
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except ValueError as error:
        (Path(messages) / f"{rank}.txt").write_text(str(error))
        return 2
    return 0


if __name__ == "__main__":
    code = main(*sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # where the others have ended already, closing the process group would wait for them
