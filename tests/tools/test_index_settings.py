"""Pip's configuration in uv's words."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tools.index_settings import parse_pip_config, uv_settings

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "index_settings.py"
MIRROR = "https://user:secret@mirror.example/simple"


def test_environment_wins_over_files_and_install_over_global() -> None:
    listing = "\n".join(
        [
            "global.index-url='https://global.example/simple'",
            "install.index-url='https://install.example/simple'",
            ":env:.index-url='https://env.example/simple'",
            "install.timeout='3'",
            "global.timeout='60'",
            "download.index-url='https://other-command.example/simple'",
            "no assignment here",
        ]
    )
    assert parse_pip_config(listing) == {"index-url": "https://env.example/simple", "timeout": "3"}


def test_defaults_change_nothing() -> None:
    assert uv_settings({}, {}) == {}


def test_every_option_has_its_counterpart() -> None:
    options = {
        "index-url": MIRROR,
        "extra-index-url": "https://a.example/simple\nhttps://b.example/simple",
        "find-links": "/wheels /more",
        "trusted-host": "mirror.example",
        "cert": "/certs.pem",
    }
    assert uv_settings(options, {}) == {
        "UV_DEFAULT_INDEX": MIRROR,
        "UV_INDEX": "https://a.example/simple https://b.example/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": "/wheels,/more",
        "UV_INSECURE_HOST": "mirror.example",
        "SSL_CERT_FILE": "/certs.pem",
    }


def test_what_the_user_told_uv_stays() -> None:
    assert uv_settings({"index-url": MIRROR}, {"UV_INDEX_URL": "https://mine.example/simple"}) == {}
    assert "UV_INDEX" not in uv_settings({"extra-index-url": MIRROR}, {"UV_EXTRA_INDEX_URL": "x"})


def test_a_shell_reads_back_what_pip_is_configured_with(tmp_path: Path) -> None:
    config = tmp_path / "pip.conf"
    config.write_text(f"[global]\nindex-url = {MIRROR}\nfind-links = {tmp_path}/it's here\n", encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))}
    shell = f'eval "$("{sys.executable}" "{SCRIPT}")"; printf "%s\\n" "$UV_DEFAULT_INDEX" "$UV_FIND_LINKS"'
    done = subprocess.run(
        ["bash", "-c", shell],
        env={**environment, "PIP_CONFIG_FILE": str(config)},
        capture_output=True,
        text=True,
        check=True,
    )
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False).returncode:
        assert done.stdout == "\n\n"  # no pip, nothing to ask
    else:
        assert done.stdout.splitlines() == [MIRROR, f"{tmp_path}/it's,here"]
