"""What can be known of the container, the proxy and the unit without starting them."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from starlette.testclient import TestClient

from pixelwise.cli import app
from pixelwise.serve import Limits

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
DRAIN = 30.0


def instructions() -> list[tuple[str, str]]:
    """Name and rest of each instruction of the Dockerfile."""
    text = "\n".join(
        line for line in (DEPLOY / "Dockerfile").read_text().splitlines() if not line.startswith("#")
    )
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in lines]


def of(name: str) -> list[str]:
    return [rest for kind, rest in instructions() if kind == name]


def unit() -> dict[str, str]:
    """The settings of the systemd unit."""
    lines = (DEPLOY / "pixelwise.service").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return content


def parsed(words: list[str]) -> dict[str, Any]:
    """The arguments of `pixelwise serve` as the program itself reads them."""
    assert words[0] == "serve"
    group = typer.main.get_command(app)
    return dict(group.commands["serve"].make_context("serve", words[1:]).params)  # type: ignore[attr-defined]


def commands() -> dict[str, list[str]]:
    container = json.loads(of("CMD")[-1])
    service = compose()["services"]["pixelwise"]["command"]
    program, *words = shlex.split(unit()["ExecStart"])
    assert program.endswith("/bin/pixelwise")
    assert json.loads(of("ENTRYPOINT")[0]) == ["pixelwise"]
    return {"Dockerfile": container, "compose.yaml": service, "unit": words}


@pytest.mark.parametrize("place", list(commands()))
def test_the_command_lines_are_ones_that_the_program_takes(place: str) -> None:
    told = parsed(commands()[place])
    assert len(told["runs"]) == 1
    assert told["port"] == 8000
    if place == "unit":
        assert told["host"] == "127.0.0.1"  # a proxy on the same machine
        assert told["token_file"] is not None
        return
    assert told["host"] == "0.0.0.0"
    assert of("EXPOSE") == ["8000"]


def test_nothing_runs_as_root_or_writes_to_its_root() -> None:
    user = of("USER")[-1]
    assert user.split(":")[0] not in ("", "root", "0")
    assert any(f"--uid {user.split(':')[0]} " in one for one in of("RUN"))
    service = compose()["services"]["pixelwise"]
    assert service["user"] == user
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert unit()["DynamicUser"] == "yes"
    assert unit()["ProtectSystem"] == "strict"
    variables = dict(pair.split("=", 1) for pair in shlex.split(of("ENV")[0]))
    written = {volume.split(":")[1] for volume in service["volumes"] if not volume.endswith(":ro")}
    places = (*service["tmpfs"], *written)
    assert {"/tmp", "/cache"} == set(places)
    for name in ("HOME", "NUMBA_CACHE_DIR", "MPLCONFIGDIR"):
        assert variables[name].startswith(places), name


def test_files_that_are_named_exist_and_reach_the_build() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for rest in of("COPY"):
        if rest.startswith("--from"):
            continue
        *sources, _ = rest.split()
        for source in sources:
            assert (ROOT / source).exists(), source
            assert source in kept, source
    needed = re.findall(r'(?:readme = |license-files = \[)"([^"]+)"', (ROOT / "pyproject.toml").read_text())
    assert len(needed) == 2
    assert set(needed) <= kept
    services = compose()["services"]
    assert (DEPLOY / services["pixelwise"]["build"]["context"]).resolve() == ROOT
    assert (ROOT / services["pixelwise"]["build"]["dockerfile"]).is_file()
    assert (DEPLOY / services["proxy"]["volumes"][0].split(":")[0]).is_file()
    secret = parsed(services["pixelwise"]["command"])["token_file"]
    assert secret == Path("/run/secrets") / services["pixelwise"]["secrets"][0]
    extras = next(one for one in of("ARG") if one.startswith("EXTRAS")).partition("=")[2].split(",")
    project = (ROOT / "pyproject.toml").read_text()
    assert all(re.search(rf"^{extra} = \[", project, re.M) for extra in extras)


def test_health_checks_ask_a_route_that_answers(semantic: TestClient) -> None:
    (check,) = of("HEALTHCHECK")
    url = re.search(r"http://127\.0\.0\.1:(\d+)(/[\w/]+)", check)
    assert url is not None
    assert url[1] == "8000"
    proxy = (DEPLOY / "Caddyfile").read_text()
    asked = re.search(r"health_uri (\S+)", proxy)
    assert asked is not None
    for path in (url[2], asked[1]):
        assert semantic.get(path).status_code == 200
    words = json.loads(check[check.index("[") :])
    compile(words[2], "health check", "exec")
    assert "reverse_proxy pixelwise:8000" in proxy
    assert f"max_size {Limits().body // 2**20}MiB" in proxy


def test_whoever_stops_the_server_waits_until_it_has_answered() -> None:
    service = compose()["services"]["pixelwise"]
    for command, patience in (
        (service["command"], service["stop_grace_period"].removesuffix("s")),
        (commands()["unit"], unit()["TimeoutStopSec"]),
    ):
        assert parsed(command)["drain"] == DRAIN
        assert float(patience) > DRAIN + 10
    assert unit()["KillMode"] == "mixed"  # the watching process tells the others
    assert of("STOPSIGNAL") == ["SIGTERM"]


def test_systemd_reads_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    text = (DEPLOY / "pixelwise.service").read_text().replace("/opt/pixelwise/bin/pixelwise", "/bin/true")
    copy = tmp_path / "pixelwise.service"
    copy.write_text(text)
    said = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True)
    assert "pixelwise.service" not in said.stderr, said.stderr
