"""The harness: `python -m bench run` measures, `python -m bench report` makes the page.

    presets.py       what to measure, as data: presets/*.toml, and the layers of shapes/*.csv
    data.py          the arrays of a problem: seeded, of order 1, changed in place between rounds
    reference.py     the right answer, in float64, computed in another way than any candidate
    candidates.py    fastconv's algorithms, ready to be called;  peers/: other libraries
    measure.py       interleaved rounds, verified before and after
    run.py           a whole preset: problems x directions x threads, as rows
    environment.py   where and with what it was measured
    records.py       one line of JSON per row, written as it comes
    statistics.py    summaries, ratios, means;  bars.py: what a preset demands, judged
    report/          the page;  suites/: the same calls under pytest-benchmark

It uses only fastconv's public names, and `fastconv.limits`.
"""
