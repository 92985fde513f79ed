"""Where the node is and which key it is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandflare import Client
from sandflare._settings import DEFAULT_URL, Settings
from sandflare.errors import ConfigurationError


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "api-key").write_text("sfk_of-the-file\n")
    return {"SANDFLARE_HOME": str(tmp_path)}


def test_without_anything_it_is_the_node_of_this_machine_with_its_key(home: dict[str, str]) -> None:
    settings = Settings.find(environ=home)
    assert (settings.url, settings.api_key) == (DEFAULT_URL, "sfk_of-the-file")


def test_what_is_given_goes_before_the_environment_and_that_before_the_file(
    home: dict[str, str],
) -> None:
    env = {**home, "SANDFLARE_API_URL": "http://localhost:1/", "SANDFLARE_API_KEY": "sfk_env"}
    settings = Settings.find(environ=env)
    assert (settings.url, settings.api_key) == ("http://localhost:1", "sfk_env")
    settings = Settings.find("https://node.example", "sfk_arg", environ=env)
    assert (settings.url, settings.api_key) == ("https://node.example", "sfk_arg")


def test_the_key_of_this_machine_goes_nowhere_else(home: dict[str, str]) -> None:
    for url in ("http://node.example:7878", "http://10.0.0.1", "https://localhost.example"):
        assert Settings.find(url, environ=home).api_key is None
    for url in ("http://localhost:5", "http://127.0.0.9:1", "http://[::1]:7878"):
        assert Settings.find(url, environ=home).api_key == "sfk_of-the-file"


def test_a_missing_key_file_is_no_key(tmp_path: Path) -> None:
    assert Settings.find(environ={"SANDFLARE_HOME": str(tmp_path / "none")}).api_key is None


@pytest.mark.parametrize(
    "url", ["node", "ftp://x", "http://", "http://x/v1", "http://x?y=1", "http://u:p@x", "://"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="address of a node"):
        Settings.find(url, environ={})


@pytest.mark.parametrize("key", ["a b", "a\nX-Evil: 1", "schlüssel"])
def test_what_is_no_key_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.find("http://127.0.0.1", key, environ={})
    assert key not in str(caught.value)


def test_a_key_is_not_shown() -> None:
    assert "sfk_secret" not in repr(Settings.find("http://127.0.0.1", "sfk_secret", environ={}))


def test_certificates_to_trust_are_a_file(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    with pytest.raises(ConfigurationError, match="there is no file"):
        Settings.find(ca=str(file), environ={})
    file.write_text("no certificate")
    assert Settings.find(environ={"SANDFLARE_CA": str(file)}).ca == str(file)
    with pytest.raises(ConfigurationError, match="holds no certificates"):
        Client("https://node.example", ca=str(file))
