"""The commands about clusters: `darkroom submit`, `jobs`, `logs` and `stop`, and those of `darkroom cluster`.

They are not jobs: they run where the user sits, and no cluster runs them.
"""

from __future__ import annotations

import os
import shlex
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from darkroom import exits

if TYPE_CHECKING:
    from darkroom.submit.submission import Cluster

Address = Annotated[
    str | None, typer.Option(help="the cluster's job API, http://HOST:8265; default RAY_ADDRESS", show_default=False)
]
Folder = Annotated[str | None, typer.Option(help="where the cluster's records are; default ~/.darkroom/cluster")]
local = typer.Typer(no_args_is_help=True, help="A Ray cluster of several nodes on this machine, to try things on.")


def add_to(app: typer.Typer, panel: str) -> None:
    """Adds the commands to the console command. panel: of its help."""
    as_given = {"ignore_unknown_options": True, "allow_extra_args": True}
    app.command(context_settings=as_given, rich_help_panel=panel)(submit)
    for command in (jobs, logs, stop):
        app.command(rich_help_panel=panel)(command)
    app.add_typer(local, name="cluster", rich_help_panel=panel)


def submit(
    context: typer.Context,
    job: Annotated[str, typer.Argument(help="generate, train, ...; its arguments follow, as here")],
    address: Address = None,
    wait: Annotated[bool, typer.Option("--wait", help="show the log, and end with the job's exit code")] = False,
    priority: Annotated[int, typer.Option(help="a job waits while one of a higher number is under way")] = 0,
    submission_id: Annotated[str | None, typer.Option(help="default: made from the job and its run")] = None,
    env: Annotated[list[str] | None, typer.Option(help="pass on this variable; no secrets, jobs can be read")] = None,
    image_code: Annotated[
        bool, typer.Option("--image-code", help="run what is installed there, not this code")
    ] = False,
    shared_filesystem: Annotated[
        bool, typer.Option("--shared-filesystem", help="every node sees this machine's folders at the same paths")
    ] = False,
) -> None:
    """Send a job to a Ray cluster: darkroom submit generate MANIFEST --out s3://bucket/run --address URL --wait

    The same again while it runs is harmless: it follows the job that is there. After its end it goes on with what is
    missing.
    """
    with exits.exit_codes():
        from darkroom.submit.request import prepare
        from darkroom.submit.submission import Cluster

        cluster = Cluster(address)
        request = prepare(job, context.args, shared_filesystem, image_code)
        for note in request.notes:
            print(f"note: {note}", file=sys.stderr)
        done = cluster.submit(request, submission_id, priority, image_code, tuple(env or ()))
        print(f"{done.id} {'is submitted' if done.new else 'is under way already'}", file=sys.stderr)
        if not wait:
            print(done.id)
            return
        raise typer.Exit(_follow(cluster, done.id))


def jobs(
    address: Address = None,
    run: Annotated[str | None, typer.Option(help="what was ever submitted for this run, from the run itself")] = None,
) -> None:
    """List the jobs that were submitted to a cluster, or for a run."""
    with exits.exit_codes():
        from darkroom.submit.submission import Cluster, copied_jobs, describe

        if run is not None:
            for one in copied_jobs(run):
                code = f" ({one['exit_code']})" if "exit_code" in one else ""
                print(f"{one['id']:<50} {one['status'] + code:<14} {one['at']}")
            return
        for one in Cluster(address).jobs():
            print(describe(one))


def logs(
    id: Annotated[str, typer.Argument(help="as `darkroom jobs` lists it")],
    address: Address = None,
    follow: Annotated[bool, typer.Option("--follow", help="until the job's end, and end with its exit code")] = False,
    run: Annotated[str | None, typer.Option(help="from this run's copy: no cluster is asked")] = None,
) -> None:
    """Show what a submitted job says."""
    with exits.exit_codes():
        from darkroom.submit.submission import Cluster, copied

        if run is not None:
            print(copied(run, id, "log.txt"), end="")
            return
        cluster = Cluster(address)
        if follow:
            raise typer.Exit(_follow(cluster, id))
        print(cluster.log(id), end="")


def stop(
    id: Annotated[str, typer.Argument(help="as `darkroom jobs` lists it")],
    address: Address = None,
) -> None:
    """Stop a submitted job. What it committed stays: submitted again, it goes on."""
    with exits.exit_codes():
        from darkroom.submit.submission import Cluster

        print(f"{id}: {Cluster(address).stop(id).status.lower()}")


@local.command()
def up(
    nodes: Annotated[int, typer.Option(min=1, max=50, help="that work; the head, which does not, comes on top")] = 2,
    cpus_per_node: Annotated[int, typer.Option(min=1, help="processors that Ray counts on each")] = 1,
    folder: Folder = None,
) -> None:
    """Start a head and workers here, each with an address of its own, and a token: eval "$(darkroom cluster up)"."""
    with exits.exit_codes():
        from darkroom.submit import nodes as local_nodes

        cluster = local_nodes.up(folder or local_nodes.default_folder(), nodes, cpus_per_node)
        print(f"# {nodes} nodes with {cpus_per_node} CPU each are up. To come in:", file=sys.stderr)
        for name, value in cluster.environment.items():
            print(f"export {name}={shlex.quote(value)}")
        print(f"# dashboard, for who brings the token: {cluster.dashboard}", file=sys.stderr)


@local.command()
def status(folder: Folder = None) -> None:
    """Say which nodes are up. Exit code 1 if one is not."""
    with exits.exit_codes():
        from darkroom.submit import nodes as local_nodes

        cluster = local_nodes.read(folder or local_nodes.default_folder())
        members = local_nodes.members(cluster)
        for node in cluster.nodes:
            said = "up" if node.address in members else "down" if not node.alive else "does not answer"
            stages = f"  for {', '.join(node.stages)}" if node.stages else ""
            print(f"{node.name:<10} {node.address:<11} {node.cpus} CPU  process {node.pid:<8} {said}{stages}")
        raise typer.Exit(exits.DONE if {node.address for node in cluster.nodes} <= set(members) else exits.FAILED)


@local.command()
def add(
    cpus: Annotated[int, typer.Option(min=1, help="processors that Ray counts on it")] = 1,
    stage: Annotated[
        list[str] | None, typer.Option(help="set apart for stage1, stage2, stage3 or encoders; again for several")
    ] = None,
    folder: Folder = None,
) -> None:
    """Start one more worker."""
    with exits.exit_codes():
        from darkroom.ray_cluster.resources import marks_of
        from darkroom.submit import nodes as local_nodes

        if unknown := set(stage or ()) - marks_of(dict.fromkeys(stage or ())):
            raise ValueError(f"--stage {', '.join(sorted(unknown))}: wanted stage1, stage2, stage3 or encoders")
        cluster = local_nodes.read(folder or local_nodes.default_folder())
        print(f"{local_nodes.add_node(cluster, cpus, tuple(stage or ())).nodes[-1].name} is up")


@local.command()
def kill(
    name: Annotated[str, typer.Argument(help="as `status` lists it")],
    folder: Folder = None,
) -> None:
    """End a node at once with all that runs on it, as a power cut would, to see what a job makes of it."""
    with exits.exit_codes():
        from darkroom.submit import nodes as local_nodes

        nodes = {node.name: node for node in local_nodes.read(folder or local_nodes.default_folder()).nodes}
        if name not in nodes:
            raise ValueError(f"no node {name!r}: there are {', '.join(nodes)}")
        local_nodes.kill_node(nodes[name])
        print(f"{name} is gone")


@local.command()
def down(folder: Folder = None) -> None:
    """End the cluster that `up` started, and nothing else: eval "$(darkroom cluster down)" has the shell forget it."""
    with exits.exit_codes():
        from darkroom.submit import nodes as local_nodes

        known = local_nodes.read(folder or local_nodes.default_folder()).environment
        print(f"# {local_nodes.down(folder or local_nodes.default_folder())} nodes ended", file=sys.stderr)
        if (
            os.environ.get("RAY_AUTH_TOKEN_PATH") == known["RAY_AUTH_TOKEN_PATH"]
        ):  # else the shell knows another cluster
            print(f"unset {' '.join(known)}")


def _follow(cluster: Cluster, name: str) -> int:
    try:
        return cluster.follow(name, lambda text: print(text, end="", flush=True))
    except exits.Interrupted as error:
        print(f"\n{name} goes on; `darkroom stop {name}` ends it", file=sys.stderr)
        return error.code  # not 0, by which a script would take the job for done
