"""`tokenflow-calibrate serve`: its own flags; all others are vLLM's and go there as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from sim.cli_options import DEBUG, with_flags

serve_app = typer.Typer()


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    words: Annotated[list[str], typer.Argument(
        metavar="MODEL [VLLM FLAGS]...", show_default=False,
        help="A directory, a Hugging Face name, or a name that profile takes, whose weights mean nothing; then vLLM's flags")]
    policy: Annotated[str, typer.Option(
        metavar="POLICY", help="As for tokenflow run, with its arguments in brackets or by --policy-arg; or stock, vLLM's own "
        "scheduler")] = "tokenflow"
    policy_arg: Annotated[list[str] | None, typer.Option(
        metavar="KEY=VALUE", help="An argument of the policy; may be repeated", show_default=False)] = None
    profile: Annotated[str | None, typer.Option(
        metavar="PROFILE", show_default=False,
        help="What the policy believes of steps and links: a JSON file, or a built-in profile (default: that of this GPU)")] = None
    profile_model: Annotated[str | None, typer.Option(
        metavar="NAME|FILE", help="Whose step times in it: a model's name or config.json (default: those of MODEL)",
        show_default=False)] = None
    host_blocks: Annotated[int | None, typer.Option(
        metavar="N", help="Host pool, in KV blocks; 0: no host tier", show_default=False)] = None
    host_gib: Annotated[float | None, typer.Option(
        metavar="GIB", help="Host pool, as memory (default: 4 where the link is known)", show_default=False)] = None
    emulate_link: Annotated[float | None, typer.Option(
        metavar="GB/S", help="Pace copies to and from the host as a link of this rate each way would; what is measured so is "
        "labelled emulated link", show_default=False)] = None
    debug: Annotated[bool, typer.Option("--debug", help=DEBUG, show_default=False)] = False


@serve_app.command("serve", context_settings={"ignore_unknown_options": True})
@with_flags
def serve(options: ServeOptions) -> None:
    """Serve a model with vLLM, scheduled by a policy, to any OpenAI client; /metrics has tokenflow:* beside vLLM's own."""
    from .serve import Wanted, serve
    model, *flags = options.words
    serve(Wanted(model=model, flags=flags, policy=options.policy, policy_args=options.policy_arg or [], profile=options.profile,
                 profile_model=options.profile_model, host_blocks=options.host_blocks, host_gib=options.host_gib,
                 emulate_link=options.emulate_link))
