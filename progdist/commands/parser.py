"""Command lines: flags, words, --config with its overrides, and --help."""

import dataclasses
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

from absl import flags, logging
from ml_collections import config_flags

from progdist.commands.values import Choice, Names, Numbers
from progdist.config import Config, field_names
from progdist.config.presets import load_config
from progdist.errors import UsageError, did_you_mean, last_line

_ALIASES = {"steps": "num_steps", "n": "num"}
_RENAMED = {
    "config.model.output": "config.parameterization",
    "config.model.": "config.net.",
}
_HELP = {"--help", "-h", "-help", "--helpfull", "--helpshort"}
# Other names that users try.
_LEADS_OF_FLAGS = {
    "class": "label",
    "epochs": "config.base.num_updates",
    "o": "out",
    "output": "out",
}
_PREFIXES = "config.", "noconfig."
_RULES = {
    r"invalid literal for int\(\).*": "must be a whole number",
    r"could not convert string to float.*": "must be a number",
    r"\('Non-boolean argument to boolean flag', .*": "must be true or false",
}
_WIDTH, _INDENT = 88, 26


class Flags:
    """Flags of a command, to be parsed once.

    Attributes:
      values: the flags of absl.
      words: flags that words without a name set, in this order; the last one takes
        all further words if it holds a list.
      takes_config: whether --config and its overrides are accepted.
    """

    def __init__(self, *words: str, takes_config: bool = False) -> None:
        """Takes the names of the flags that words set."""
        self.values = flags.FlagValues()
        self.words, self.takes_config = words, takes_config
        if takes_config:
            self.text(
                "config", "Preset or file: NAME[:VARIANT] or PATH.py; see train --list."
            )

    def text(self, name: str, about: str, default: str | None = None) -> None:
        """Defines a flag that takes any text."""
        flags.DEFINE_string(name, default, about, self.values)

    def switch(self, name: str, about: str, default: bool | None = False) -> None:
        """Defines a flag that is on or off, as --NAME or --noNAME; or None."""
        flags.DEFINE_bool(name, default, about, self.values)

    def number(
        self,
        name: str,
        about: str,
        default: int | None = None,
        low: int = 0,
        high: int | None = None,
    ) -> None:
        """Defines a flag that takes a whole number."""
        flags.DEFINE_integer(name, default, about, low, high, flag_values=self.values)

    def real(
        self, name: str, about: str, default: float, low: float, high: float
    ) -> None:
        """Defines a flag that takes a number in a range."""
        flags.DEFINE_float(name, default, about, low, high, flag_values=self.values)

    def choice(
        self, name: str, about: str, of: Any, default: str | None = None
    ) -> None:
        """Defines a flag that takes one of the values of a Literal type."""
        about += f" One of {', '.join(get_args(of))}."
        flags.DEFINE(
            Choice(get_args(of)), name, default, about, flag_values=self.values
        )

    def choices(
        self, name: str, about: str, of: Any, default: tuple[str, ...] | None = None
    ) -> None:
        """Defines a flag that takes values of a Literal type, separated by commas."""
        about += f" Of {', '.join(get_args(of))}."
        flags.DEFINE(Names(get_args(of)), name, default, about, flag_values=self.values)

    def numbers(
        self, name: str, about: str, kind: type, low: int | float, high: int | float
    ) -> None:
        """Defines a flag that takes numbers, separated by commas."""
        parser = Numbers(kind, low, high)
        flags.DEFINE(parser, name, (), about, flag_values=self.values)

    def texts(self, name: str, about: str, default: Sequence[str] = ()) -> None:
        """Defines a flag that takes texts, separated by commas."""
        flags.DEFINE_list(name, list(default), about, self.values)

    def parse(
        self, argv: Sequence[str], about: str | None, *required: str
    ) -> dict[str, Any]:
        """Returns the values by name; --help prints `about` and the flags, and exits.

        Args:
          argv: the command line, from the name of the command.
          about: text of --help.
          required: names of required flags.

        Raises:
          UsageError: if a flag or word is missing, unknown, invalid or superfluous.
          ConfigError: if --config or a field is unknown or invalid.
        """
        # Orbax logs every file at level INFO, and at level ERROR the errors it raises.
        logging.set_verbosity(logging.FATAL)
        if _HELP & set(argv[1:]):
            print(self._help(argv[0], about or ""))
            sys.exit(0)
        try:
            words = self.values.read_flags_from_files(argv[1:], force_gnu=True)
        except flags.Error as error:
            raise UsageError(last_line(error)) from None
        words = [self._current(word) for word in words]
        if self.takes_config:
            words = self._take_config(words)
        rest = self._parse_flags(words)
        values = {name: self.values[name].value for name in self.values}
        self._place(rest, values)
        self.require(values, *required)
        return values

    def require(self, values: Mapping[str, Any], *names: str) -> None:
        """Refuses values without a required flag.

        Raises:
          UsageError: naming the first that is missing.
        """
        for name in names:
            if not values[name] and values[name] != 0:
                is_word = name in self.words
                text = f"{name.upper()} or --{name}" if is_word else f"--{name}"
                raise UsageError(f"{text} is missing; see --help")

    def _parse_flags(self, words: Sequence[str]) -> list[str]:
        try:
            return self.values(["progdist", *words])[1:]
        except flags.UnrecognizedFlagError as error:
            meant = self._meant(error.flagname) or "; see --help"
            raise UsageError(f"--{error.flagname}: is not a flag{meant}") from None
        except flags.Error as error:
            raise UsageError(_reason(error)) from None

    def _meant(self, name: str) -> str:
        """Returns "; did you mean …?" for an unknown flag, or ""."""
        names = [f for f in self.values if not f.startswith("config.")] + ["steps"]
        fields = [f"config.{field}" for field in field_names(Config())]
        lead = _LEADS_OF_FLAGS.get(name, name)
        meant = did_you_mean(lead, names, "--")
        if meant or not self.takes_config:
            return meant
        return did_you_mean(lead, fields, "--")

    def _place(self, words: Sequence[str], values: dict[str, Any]) -> None:
        """Sets the flags of the words."""
        for number, word in enumerate(words):
            name = self.words[min(number, len(self.words) - 1)] if self.words else ""
            is_list = isinstance(values.get(name), list)
            if not name or (values[name] and not is_list):
                taken = f", and {name.upper()} is {values[name]}" if name else ""
                raise UsageError(
                    f"{word!r} is not a flag; flags are --name=value{taken}"
                )
            values[name] = [*values[name], word] if is_list else word

    def _current(self, word: str) -> str:
        """Returns a word with the name of its flag spelt out.

        Raises:
          UsageError: if it is a flag of version 0.1.0 that has been renamed.
        """
        name, equals, value = word.partition("=")
        short = name.lstrip("-")
        for old, new in _RENAMED.items():
            if name.startswith("-") and short.startswith(old):
                raise UsageError(f"--{short}: is --{short.replace(old, new)} now")
        full = _ALIASES.get(short, "")
        if name.startswith("-") and full in self.values:
            return f"--{full}{equals}{value}"
        return word

    def _take_config(self, words: Sequence[str]) -> list[str]:
        """Loads --config, defines its overrides, and returns the other words."""
        text, rest = _split(words, "config")
        flagged = [word for word in rest if word.startswith("-")]
        overrides = [w for w in flagged if w.lstrip("-").startswith(_PREFIXES)]
        if text is None:
            for word in overrides:
                raise UsageError(f"{word.partition('=')[0]}: needs --config")
            return list(words)
        if not text:
            raise UsageError("--config is missing; see --help")
        config = load_config(text)
        _check_fields(config, overrides)
        delattr(self.values, "config")
        _register_parsers()
        try:
            config_flags.DEFINE_config_dataclass(
                "config", config, flag_values=self.values, sys_argv=["", *rest]
            )
        except flags.Error as error:
            raise UsageError(last_line(error)) from None
        return rest

    def _help(self, command: str, about: str) -> str:
        words = "".join(f" {name.upper()}" for name in self.words)
        words += " ..." * any(
            isinstance(self.values[n].value, list) for n in self.words
        )
        lines = [f"usage: {command}{words} [--flag=value ...]", "", about.strip(), ""]
        lines.append("Flags:")
        for name in self.values:
            flag = self.values[name]
            start = f"  {_spelling(flag)}".ljust(_INDENT)
            text = textwrap.wrap(flag.help or "", _WIDTH - _INDENT)
            if len(start) > _INDENT or start[-1] != " ":
                lines.append(start.rstrip())
                start = " " * _INDENT
            lines += [start + text[0], *(" " * _INDENT + line for line in text[1:])]
        if self.takes_config:
            lines += ["  --config.FIELD=VALUE    Overrides a field, as in "]
            lines[-1] += "--config.base.num_updates=100."
        return "\n".join(lines)


def define_cluster(flags: Flags) -> None:
    """Defines the flags of a run on several processes."""
    flags.switch("distributed", "Join the other processes of a run.")
    flags.text("coordinator", "HOST:PORT of process 0; detected if omitted.")
    flags.number("num_processes", "Number of processes; detected if omitted.", low=1)
    flags.number("process_id", "Number of this process; detected if omitted.")
    about = "Seconds without a sign of life after which a process counts as lost."
    flags.number("heartbeat_seconds", about, 60, low=1)


def _split(words: Sequence[str], name: str) -> tuple[str | None, list[str]]:
    """Returns the last value of a flag, None if absent, and the other words."""
    value, rest = None, []
    remaining = iter(words)
    for word in remaining:
        if word in (f"--{name}", f"-{name}"):
            value = next(remaining, "")
        elif word.startswith((f"--{name}=", f"-{name}=")):
            value = word.partition("=")[2]
        else:
            rest.append(word)
    return value, rest


def _reason(error: flags.Error) -> str:
    """Returns the message of an invalid value, without words of Python."""
    text = last_line(error).removeprefix("flag ")
    for pattern, rule in _RULES.items():
        text = re.sub(pattern, rule, text)
    return text


def _check_fields(config: Config, overrides: Sequence[str]) -> None:
    """Refuses unknown fields, naming the nearest one."""
    names = field_names(config)
    for word in overrides:
        name = word.lstrip("-").partition("=")[0].partition("config.")[2]
        inner = next((n for n in names if n.startswith(f"{name}.")), None)
        if inner:
            raise UsageError(f"config.{name}: holds fields, such as config.{inner}")
        if name not in names:
            meant = did_you_mean(name, names, "config.")
            raise UsageError(f"config.{name}: is not a field{meant}")


def _spelling(flag: flags.Flag) -> str:
    """Returns a flag as it is written, with its default or a placeholder."""
    if flag.boolean:
        return f"--{'no' * bool(flag.value)}{flag.name}"
    default = flag.value
    if isinstance(default, (list, tuple)):
        default = ",".join(map(str, default))
    kind = getattr(flag.parser, "syntactic_help", "")
    blank = "N" if "integer" in kind or "number" in kind else flag.name.upper()
    return f"--{flag.name}={blank if default in (None, '') else default}"


def _register_parsers() -> None:
    """Registers parsers for types of fields that ml_collections lacks."""
    for hint in _closed_sets(Config):
        is_tuple, inner = get_origin(hint) is tuple, get_args(hint)
        parser = Names(get_args(inner[0])) if is_tuple else Choice(inner)
        config_flags.register_flag_parser_for_type(hint, parser)


def _closed_sets(cls: type) -> Iterator[Any]:
    """Yields the Literal types of the fields, nested ones too, and tuples of them."""
    hints: Mapping[str, Any] = get_type_hints(cls)
    for hint in hints.values():
        inner = get_args(hint) or (hint,)
        if get_origin(hint) is Literal or get_origin(inner[0]) is Literal:
            yield hint
        for part in inner:
            if isinstance(part, type) and dataclasses.is_dataclass(part):
                yield from _closed_sets(part)
