"""What mkdocs does beside its own work: pages made of the code, and links that lead out of docs/.

A link from a page of docs/ to another file of the repository leads to a copy of it in the site: Markdown
files are pages, other texts are pages with the text, pictures stay as they are.
"""

import html
import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
OUTSIDE = "repository/"  # where the site has the files that docs/ does not hold
PAGES = ("RESULTS.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
PICTURES = {".png", ".svg"}
LANGUAGES = {".py": "python", ".sh": "bash", ".yaml": "yaml", ".md": "markdown"}
SECTIONS = {
    "experiment": "The experiment",
    "base": "The base model",
    "train": "Training of adapters",
    "data": "Data",
    "adapters": "Adapters, by type",
    "augment": "Augmentation",
    "search": "Search",
}
_LINK = re.compile(r"(?<=\]\()([^)\s#]+)((?:#[^)\s]*)?)(?=\))")
_CELL = re.compile(r"<t[dh]\b.*?</t[dh]>", re.DOTALL)
_INTERVAL = re.compile(r"\((?:95 % interval|-?[\d.]+ to -?[\d.]+)\)")
_FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made of the code, and every file of the repository that a page links to."""
    made = {"reference/commands.md": write_commands(), "reference/settings.md": write_settings()}
    for uri, text in made.items():
        files.append(File.generated(config, uri, content=text))
    pages = [file.src_uri for file in files.documentation_pages() if file.src_uri not in made]
    waiting = [*(_place_of(uri) for uri in pages), *PAGES]
    seen = set(waiting)
    for path in PAGES:
        files.append(_copy(path, config))
    while waiting:
        path = waiting.pop()
        for target in _find_links(path) - seen:
            seen.add(target)
            files.append(_copy(target, config))
            if target.endswith(".md"):
                waiting.append(target)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links that leave docs/ lead to the copies in the site."""
    place = _place_of(page.file.src_uri)

    def lead(match: re.Match[str]) -> str:
        target = _resolve(match[1], place)
        if target is None:
            return match[0]
        uri = _uri_of(target)
        return posixpath.relpath(uri, posixpath.dirname(page.file.src_uri) or ".") + match[2]

    parts = _FENCE.split(markdown)
    return "".join(part if part.startswith("```") else _LINK.sub(lead, part) for part in parts)


def on_page_content(html: str, **_: Any) -> str:
    """Let no interval in a table be broken into lines."""
    return _CELL.sub(lambda cell: _INTERVAL.sub(r'<span class="interval">\g<0></span>', cell[0]), html)


def _place_of(uri: str) -> str:
    """Return where a page of the site is in the repository."""
    return uri.removeprefix(OUTSIDE) if uri.startswith(OUTSIDE) else f"docs/{uri}"


def _uri_of(path: str) -> str:
    """Return where a file of the repository is in the site."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    is_shown = Path(path).suffix in {".md", *PICTURES}
    return f"{OUTSIDE}{path}" if is_shown else f"{OUTSIDE}{path}.md"


def _resolve(link: str, place: str) -> str | None:
    """Return the file of the repository that a link in the file `place` leads to; None if it is none."""
    if ":" in link:
        return None
    path = posixpath.normpath(posixpath.join(posixpath.dirname(place), link))
    return path if (ROOT / path).is_file() else None


def _find_links(place: str) -> set[str]:
    """Find the files beside docs/ that a page links to."""
    text = _FENCE.sub("", (ROOT / place).read_text(encoding="utf-8"))
    found = {_resolve(match[1], place) for match in _LINK.finditer(text)}
    return {path for path in found if path is not None and not path.startswith("docs/")}


def _copy(path: str, config: Any) -> File:
    source = ROOT / path
    if source.suffix == ".md":
        return File.generated(config, _uri_of(path), content=source.read_text(encoding="utf-8"))
    if source.suffix in PICTURES:
        return File.generated(config, _uri_of(path), content=source.read_bytes())
    language = LANGUAGES.get(source.suffix, "text")
    text = f"# {path}\n\n````{language}\n{source.read_text(encoding='utf-8')}````\n"
    return File.generated(config, _uri_of(path), content=text)


def write_commands() -> str:
    """Write the page of commands from their own help."""
    import typer

    from adaptkit.cli.main import app

    parts = ["# Commands", "What `adaptkit COMMAND --help` says. Every command has `--help` (`-h`) too."]
    for words, command in _list_commands(typer.main.get_command(app), "adaptkit"):
        parts += _describe_command(words, command)
    return "\n\n".join(parts) + "\n"


def _list_commands(command: Any, words: str) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield words, command
        return
    for name, part in sorted(command.commands.items()):
        yield from _list_commands(part, f"{words} {name}")


def _describe_command(words: str, command: Any) -> Iterator[str]:
    with command.make_context(words, [], resilient_parsing=True) as context:
        records = [parameter.get_help_record(context) for parameter in command.get_params(context)]
    yield f"## {words}"
    yield _text(command.help)
    yield f"```sh\n{command.example.strip()}\n```"
    shown = [record for record in records if record is not None and "--help" not in record[0]]
    rows = [f"| {_code(name)} | {_cell(text)} |" for name, text in shown]
    if rows:
        yield "\n".join(["| argument or option | meaning |", "|---|---|", *rows])


def write_settings() -> str:
    """Write the page of settings, which `adaptkit config describe` lists."""
    from adaptkit.experiment_keys import list_section

    parts = [
        "# Settings",
        "Every key of an experiment's yaml, as `adaptkit config describe` lists them. `--set KEY=VALUE` of "
        "`adaptkit train` and `adaptkit base train` changes one.",
    ]
    for section, title in SECTIONS.items():
        keys = list_section(section)
        parts.append(f"## {title}")
        for kind in dict.fromkeys(key.kind for key in keys):
            if kind:
                parts.append(f"### {section}: {kind}")
            own = [key for key in keys if key.kind == kind]
            rows = [
                f"| `{key.name}` | {_cell(key.type)} | {_default(key)} | {_cell(key.help)} |" for key in own
            ]
            parts.append("\n".join(["| key | type | default | meaning |", "|---|---|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def _default(key: Any) -> str:
    if key.is_required:
        return "required"
    if isinstance(key.default, dict) and key.default:
        return ""
    return _code(json.dumps(key.default))


def _cell(text: str) -> str:
    return _text(text).replace("|", r"\|")


def _code(text: str) -> str:
    """Return a name as code in a table."""
    return f"<code>{html.escape(text, quote=False).replace('|', '&#124;')}</code>"


def _text(text: str) -> str:
    """Return a help text as Markdown that shows its characters."""
    return re.sub(r"([*_\[\]])", r"\\\1", html.escape(" ".join(text.split()), quote=False))
