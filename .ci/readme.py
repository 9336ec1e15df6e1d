"""README.md as a package index shows it, where the files beside it are not."""

import re
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)]+)\)")


def absolute(text: str, repository: str | None) -> str:
    """Links into the repository lead there; before its address is known they are words, and
    pictures are left out."""

    def shown(link: re.Match[str]) -> str:
        picture, words, path = link.groups()
        if repository:
            kind = "raw" if picture else "blob"
            return f"{picture}[{words}]({repository.rstrip('/')}/{kind}/main/{path})"
        return "" if picture else words

    return LINK.sub(shown, text)


class Readme(MetadataHookInterface):
    """Called by hatchling when the metadata are made."""

    def update(self, metadata: dict) -> None:
        urls = metadata.get("urls", {})
        text = absolute((Path(self.root) / "README.md").read_text("utf-8"), urls.get("Repository"))
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
