"""The modules' JSDoc as TypeScript reads it, with CHANNELKIT_TSC, the path of a `tsc` 5 (npm install typescript)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from channelkit import browser

OPTIONS = ["--strict", "--target", "es2022", "--module", "esnext", "--moduleResolution", "bundler"]
LIBRARIES = ["--lib", "es2022,dom,dom.iterable"]
USE = """
import { connect } from "./ck/channelkit.js";
const channel = connect("/chat", { transport: "websocket", state: sessionStorage });
channel.onmessage = (message) => { const data: string | Uint8Array = message; };
channel.closed.then(({ outcome, delivered }) => { const how: string = outcome; const all: boolean = delivered; });
const accepted: Promise<boolean> = channel.send("text");
// @ts-expect-error not a message
channel.send(5);
// @ts-expect-error no such option
connect("/chat", { transprot: "websocket" });
"""


def tsc(folder: Path, *arguments: str) -> str:
    command = [os.environ["CHANNELKIT_TSC"], *OPTIONS, *LIBRARIES, *arguments]
    return subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True).stdout


def written(folder: Path) -> list[str]:
    (folder / "ck").mkdir()
    for name, body in browser.files().items():
        (folder / "ck" / name).write_bytes(body)
    (folder / "use.ts").write_text(USE)
    return [f"ck/{name}" for name in browser.files()]


def test_the_modules_are_typed(tmp_path: Path) -> None:
    """Every module passes the strictest check."""
    assert tsc(tmp_path, "--noEmit", "--allowJs", "--checkJs", *written(tmp_path)) == ""


def test_a_user_gets_types(tmp_path: Path) -> None:
    """With `allowJs`, or with declarations that are made by one command."""
    written(tmp_path)
    assert tsc(tmp_path, "--noEmit", "--allowJs", "use.ts") == ""
    assert "TS7016" in tsc(tmp_path, "--noEmit", "use.ts")  # otherwise it has no types, and is told so
    assert tsc(tmp_path, "--allowJs", "--declaration", "--emitDeclarationOnly", "ck/channelkit.js") == ""
    assert tsc(tmp_path, "--noEmit", "use.ts") == ""
