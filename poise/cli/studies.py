"""``poise study``: a claim's runs, or all, judged and written into a page."""

from __future__ import annotations

import argparse


def study(arguments: argparse.Namespace, fields: dict[str, str]) -> int:
    """Run a study; 1 where runs crashed, 0 whatever the verdict."""
    from poise.studies.datasets import parse_paths
    from poise.studies.executors import Executor, Here, OnRay, Workers
    from poise.studies.page import write_page
    from poise.studies.results import Results
    from poise.studies.study import all_claims, judge, lines, paper_lines, run_study

    claims = all_claims()
    if arguments.name == "list":
        print("\n".join(lines(claims, arguments.folder)))
        return 0
    if arguments.name not in (*claims, "all"):
        _ = claims[arguments.name]  # says the nearest
    chosen = list(claims.values()) if arguments.name == "all" else [claims[arguments.name]]
    if arguments.workers is not None and arguments.ray is not None:
        raise ValueError("--workers are processes here and --ray is a cluster: give one of them")
    paths = parse_paths(arguments.data)
    if arguments.budget == "paper" and not arguments.yes:
        print("\n".join(paper_lines(chosen, paths)))
        return 0
    executor: Executor = Here()
    if arguments.ray is not None:
        executor = OnRay(arguments.ray)
    elif arguments.workers is not None:
        executor = Workers(arguments.workers)
    run_study(chosen, arguments.budget, arguments.folder, executor, _say, paths)
    with Results(arguments.folder) as results:
        judged = {claim.name: judge(claim, arguments.budget, results) for claim in claims.values()}
    for claim in chosen:
        one = judged[claim.name]
        told = f"{one.judgement.verdict}. {one.judgement.words}" if one.judgement else f"not judged: {one.missing}"
        print(f"{claim.name}: {told}")
    # A page of all, with "not run" beside all but one, is not to replace the one that is kept in docs.
    out = arguments.out or ("docs" if arguments.name == "all" else arguments.folder)
    print(write_page(list(judged.values()), out))
    return 1 if any("crashed" in judged[claim.name].missing for claim in chosen) else 0


def _say(line: str) -> None:
    print(line, flush=True)  # also where it goes into a file
