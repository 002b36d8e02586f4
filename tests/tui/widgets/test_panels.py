"""Texts of the entropy, pressure and vitals panels."""

from __future__ import annotations

import re

import msgspec
import pytest

from moe_watch.routing.events import (
    Chunk,
    Clock,
    GpuMemory,
    MemoryPressure,
    ModelMemory,
    Pressures,
    Temperature,
    Token,
    Vitals,
)
from moe_watch.routing.header import Buffer
from moe_watch.tui.widgets.panels.pressure.trajectory_chart import INJECTION_LINES
from tests.tui.conftest import lines, press, running, shown, style_at
from tests.tui.events import GIGABYTE, MadeUpRun, header, main_run
from tests.tui.scripted import REPLAY, REPLAYING

# Entropy


async def test_entropy_has_a_number_for_every_layer_and_the_means():
    async with running() as (app, _, _):
        window = app.view.window
        text = shown(app.dashboard.entropy)
        for layer, value in enumerate(window.layer_entropy()):
            assert any(line.startswith(f"{layer} ━") and f" {value:.2f}" in line for line in text.splitlines())
        assert f"mean {window.mean_entropy():.2f}  effective experts {window.effective():.1f} of 8" in text
        assert f"churn {window.churn():.2f}" in text


@pytest.mark.parametrize("width", range(104, 241, 8))
async def test_no_number_of_the_entropy_summary_is_cut(width):
    async with running(size=(width, 50)) as (app, _, _):
        window = app.view.window
        (summary,) = (line for line in shown(app.dashboard.entropy).splitlines() if line.startswith("mean "))
        whole = f"mean {window.mean_entropy():.2f}  effective {window.effective():.1f} of 8  churn {window.churn():.2f}"
        assert whole.startswith(summary.replace("effective experts", "effective"))
        assert re.fullmatch(r"mean [\d.]{4}(  effective( experts)? \d\.\d of 8(  churn \d\.\d\d)?)?", summary)


async def test_many_layers_become_a_curve_with_its_extremes_named():
    async with running(main_run(40, head=header(30, 8, 2))) as (app, _, _):
        values = app.view.window.layer_entropy()
        assert f"layer {values.argmin()} {values.min():.2f} to {values.argmax()} {values.max():.2f}" in shown(
            app.dashboard.entropy
        )


async def test_entropy_that_was_not_recorded_is_said_to_be_absent():
    head = header(capture=["experts"])
    items = [
        msgspec.structs.replace(item, entropy=None, margin=None) if isinstance(item, Token) else item
        for item in MadeUpRun(head).prompt()
    ]
    async with running(items) as (app, _, _):
        assert "n/a: this run did not record router entropy" in shown(app.dashboard.entropy)


async def test_counts_without_tokens_are_said_to_be_that():
    async with running([header(capture=["counts"])]) as (app, _, _):
        for panel in (app.dashboard.stream, app.dashboard.experts, app.dashboard.entropy):
            assert "n/a: this recording has counts, no tokens" in shown(panel)


# Pressure


async def test_before_the_first_chunk_the_missing_tokens_are_counted():
    async with running(main_run(13)) as (app, _, _):
        assert "first chunk in 7 tokens" in shown(app.dashboard.pressure)


async def test_in_the_warm_up_nothing_is_measured():
    async with running(main_run(95)) as (app, _, _):
        text = shown(app.dashboard.pressure)
        assert "warm-up 4 of 10 chunks: nothing is measured yet" in text
        assert "P₀" not in text


async def test_the_newest_pressure_its_start_and_its_half_are_numbers():
    items = main_run()
    async with running(items) as (app, _, _):
        chunks = [item for item in items if isinstance(item, Chunk)]
        start = app.frame_now.trend.fit.start
        text = shown(app.dashboard.pressure)
        assert text.startswith("PRESSURE  measured · mid by chunk")
        assert f"mid {chunks[-1].pressures.mid:.3f}" in text
        assert f"start {start:.3f}  half {start / 2:.3f}" in text
        assert f"↓ half {start / 2:.3f}" in text


async def test_an_injection_is_a_post_at_its_chunk_with_the_difference_around_it():
    items = main_run()
    async with running(items) as (app, _, _):
        panel = app.dashboard.pressure
        track = app.view.tracks["measured-v2"]
        text = shown(panel)
        assert f"▴{track.injections.points[0].chunk}" in text
        column = next(line.index("┊") for line in text.splitlines() if "┊" in line)
        row = next(y for y, line in enumerate(lines(panel)) if "┊" in line)
        assert style_at(panel, column, row).color == panel.palette.accent.color
        delta = f"{track.delta:+.3f}".replace("-", "−")
        assert f"go on: Δ {delta}, forecast n/a (no control)" in text


async def test_a_difference_in_the_warm_up_says_so():
    async with running(main_run(130, 100)) as (app, _, _):
        assert re.search(r"go on: Δ P_mid [+−]0\.\d{3} before/after \(no control\)", shown(app.dashboard.pressure))


async def test_warm_up_chunks_are_grey_and_the_newest_one_is_now():
    async with running() as (app, _, _):
        panel = app.dashboard.pressure
        ink = panel.palette
        chart = [segment for y in range(1, 10) for segment in panel.render_line(y)]
        dots = {segment.style.color for segment in chart if any("⠁" <= each <= "⣿" for each in segment.text)}
        assert dots >= {ink.faint.color, ink.chart.series["mid"].color, ink.chart.fit.color}
        assert [segment.style.color for segment in chart if "●" in segment.text] == [ink.accent.color]


async def test_f_adds_fast_slow_and_net():
    async with running() as (app, pilot, _):
        panel = app.dashboard.pressure
        await press(app, pilot, "f")
        last = app.view.tracks["measured-v2"].chunks[-1].pressures
        for name in ("fast", "slow", "net"):
            assert f"{name[0]} {name} {getattr(last, name):.3f}".replace("-", "−") in shown(panel)
        assert f"● mid {last.mid:.3f}" in shown(panel)
        await press(app, pilot, "f")
        assert "fast" not in shown(panel)


@pytest.mark.parametrize(("tokens", "said"), [(300, True), (90, False)], ids=["after", "before"])
async def test_a_recording_that_begins_after_the_start_says_why_there_is_none(tokens, said):
    run = MadeUpRun()
    unseen = [*run.prompt(), *run.generate(tokens)]
    async with running([unseen[0], run._instruments.keyframe(), *run.generate(60)]) as (app, _, _):
        text = shown(app.dashboard.pressure)
        assert ("the recording begins at chunk 15" in text) == said
        assert "half" not in text
        assert ("warm-up" in text) != said


async def test_each_curve_ends_in_a_letter_of_its_own_colour():
    async with running() as (app, pilot, _):
        panel = app.dashboard.pressure
        await press(app, pilot, "f")
        chart = [segment for y in range(1, panel.content_size.height - 2) for segment in panel.render_line(y)]
        for name in ("fast", "slow", "net"):
            letters = [segment.style.color for segment in chart if segment.text.rstrip().endswith(name[0])]
            assert letters == [panel.palette.chart.series[name].color]


async def test_curves_that_end_in_the_same_place_keep_their_letters():
    flat = Pressures(fast=0.5, mid=0.5, slow=0.5, net=0.5, w_fast=0.2, w_mid=0.7, w_slow=0.3)
    items = [msgspec.structs.replace(item, pressures=flat) if isinstance(item, Chunk) else item for item in main_run()]
    async with running(items) as (app, pilot, _):
        await press(app, pilot, "f")
        assert "●fsn" in shown(app.dashboard.pressure)


async def test_injections_in_every_chunk_leave_room_for_the_curve():
    run = MadeUpRun()
    items = [*run.prompt()]
    for _ in range(60):
        items += [*run.generate(20), *run.inject()]
    async with running(items) as (app, _, _):
        text = lines(app.dashboard.pressure)
        injections = [injection.chunk for injection in app.view.tracks["measured-v2"].injections.points]
        assert len(injections) == 60
        assert {line.count("┊") for line in text} <= set(range(INJECTION_LINES + 1))
        assert max(line.count("┊") for line in text) > 0
        assert any(line.count("╵") > 10 for line in text)
        axis = next(line for line in text if f"▴{injections[-1]}" in line)
        assert axis.count("▴") <= INJECTION_LINES < sum(character.isdigit() for character in axis)


async def test_p_shows_the_reference_mode_and_why_it_has_no_half_life():
    async with running(size=(108, 50)) as (app, pilot, _):
        panel = app.dashboard.pressure
        await press(app, pilot, "p")
        text = shown(panel)
        initial = app.frame_now.trend.fit.start
        assert text.startswith("PRESSURE  ChronoMoE's rule · mid by chunk")
        assert "computed here, not recorded" in text
        assert f"unreachable: floor 0.179 > half {initial / 2:.3f}" in text
        await press(app, pilot, "p")
        assert "unreachable" not in shown(panel)


async def test_crossing_half_is_marked():
    items = [
        msgspec.structs.replace(
            item, pressures=msgspec.structs.replace(item.pressures, mid=0.1 if item.index > 14 else 0.5)
        )
        if isinstance(item, Chunk)
        else item
        for item in main_run()
    ]
    async with running(items) as (app, _, _):
        text = shown(app.dashboard.pressure)
        assert "chunk 15 is the first at or below half of the first" in text
        assert "◆" in text
        assert re.search(r" half 0\.\d{3} ╌", text)


async def test_pressure_that_cannot_be_computed_is_said_to_be_absent():
    items = [
        msgspec.structs.replace(item, signals=None, pressures=None) if isinstance(item, Chunk) else item
        for item in main_run(60)
    ]
    async with running(items) as (app, _, _):
        assert "n/a: this run recorded no signals that pressure needs" in shown(app.dashboard.pressure)


# Vitals


async def test_vitals_have_numbers_sources_and_reasons():
    async with running(size=(200, 60)) as (app, _, _):
        last = app.view.vitals.last
        text = shown(app.dashboard.vitals)
        assert f"memory      {last.memory_used / GIGABYTE:.1f} of 16.0 GB" in text
        assert "pressure    ok 0.8 % stalled  PSI" in text
        assert f"cpu         {last.temperatures[0].celsius:.0f} °C of 100" in text
        assert "throttling  n/a: no thermal throttle counter" in text
        assert "▆" in text


async def test_what_is_missing_has_its_reason_and_no_number():
    bare = Vitals(t=1.0, unavailable={"memory_used": "no /proc here", "temperatures": "no sensors in a container"})
    async with running([header(), bare]) as (app, _, _):
        text = shown(app.dashboard.vitals)
        assert "memory      n/a: no /proc here" in text
        assert "temperature n/a: no sensors in a container" in text
        assert not any(character.isdigit() for character in text)


@pytest.mark.parametrize(("level", "ink"), [("ok", "good"), ("warning", "warn"), ("critical", "bad")])
async def test_memory_pressure_has_a_word_and_a_colour(level, ink):
    reading = Vitals(t=1.0, pressure=MemoryPressure(level=level, source="kernel"), throttling=level != "ok")
    async with running([header(), reading]) as (app, _, _):
        panel = app.dashboard.vitals
        assert f"pressure    {level}" in shown(panel)
        assert style_at(panel, 12, 0).color == getattr(panel.palette.status, ink).color
        assert ("slowed down" in shown(panel)) == (level != "ok")


def reading(t, read, **others):
    return Vitals(t=t, memory_total=16 * GIGABYTE, memory_used=9 * GIGABYTE, worker_read=read, **others)


def decode(number, first=0):
    return [
        Token(i=i, t=0.1 * i, phase="decode", source="generated", id=1, text="x", experts=[0, 1] * 6)
        for i in range(first, first + number)
    ]


@pytest.mark.parametrize(("read", "shown_as"), [(620_000_000, "1.2 GB/s · 310 MB/token"), (0, "0 B/s · 0 B/token")])
async def test_the_disk_has_bytes_per_second_and_per_token(read, shown_as):
    items = [header(), reading(0.0, 5, worker_faults=1), *decode(2), reading(0.5, 5 + read, worker_faults=25)]
    async with running(items, size=(200, 60)) as (app, _, _):
        text = shown(app.dashboard.vitals)
        assert f"disk        {shown_as}" in text


async def test_one_page_fault_per_second_is_singular():
    items = [header(), reading(0.0, 5, worker_faults=1), *decode(2), reading(1.0, 5, worker_faults=2)]
    async with running(items, size=(120, 40)) as (app, _, _):
        assert "1 fault/s" in shown(app.dashboard.vitals)


async def test_an_unreadable_counter_has_its_reason_among_the_absent_ones():
    last = reading(0.5, None, unavailable={"worker_read": "the kernel has no /proc/PID/io", "group_events": "no group"})
    async with running([header(), reading(0.0, 5), last]) as (app, _, _):
        text = shown(app.dashboard.vitals)
        assert "disk        n/a: the kernel has no /proc/PID/io" in text
        assert "no group" not in text


async def test_the_model_has_the_counters_of_mlx():
    memory = ModelMemory(active=4_100_000_000, peak=4_500_000_000, cache=200_000_000)
    async with running([header(), reading(0.0, 5, model_memory=memory)], size=(200, 60)) as (app, _, _):
        assert "model       4.1 GB" in shown(app.dashboard.vitals)


async def test_the_model_has_the_buffers_of_llama_by_device():
    buffers = [
        Buffer(device="CUDA0", kind="weights", bytes=9_000_000_000),
        Buffer(device="CUDA0", kind="kv", bytes=1_000_000_000),
        Buffer(device="CPU", kind="compute", bytes=50_000_000),
    ]
    made = header()
    made = msgspec.structs.replace(made, backend=msgspec.structs.replace(made.backend, buffers=buffers))
    async with running([made, reading(0.0, 5)], size=(200, 60)) as (app, _, _):
        text = shown(app.dashboard.vitals)
        assert "model       10.0 GB  CUDA0: weights 9.0 GB" in text
        assert "50.0 MB  CPU: compute 50.0 MB" in text


async def test_swap_rates_are_shown_where_swap_is_configured():
    def swap(t, into):
        return reading(t, 0, swap_total=GIGABYTE, swap_used=0, swapped_in=into, swapped_out=0)

    async with running([header(), swap(0.0, 0), swap(0.5, 6_000_000)], size=(200, 60)) as (app, _, _):
        assert "swap rate   12.0 MB/s in · 0 B/s out" in shown(app.dashboard.vitals)
    none = [reading(t, 0, swap_total=0, swap_used=0, swapped_in=0, swapped_out=0) for t in (0.0, 0.5)]
    async with running([header(), *none], size=(200, 60)) as (app, _, _):
        text = shown(app.dashboard.vitals)
        assert "none configured" in text
        assert "swap rate" not in text


async def test_critical_pressure_offers_the_pause_of_a_live_run():
    why = "tasks waited for memory 45.0 % of 10 s, limit 40 %"
    critical = MemoryPressure(level="critical", source="PSI some avg10", stalled=0.45, reason=why)
    items = [header(), *decode(2), reading(0.5, 0, pressure=critical)]
    async with running(items) as (app, _, _):
        banner = shown(app.dashboard.query_one("#banner"))
        assert f"memory pressure is critical: {why}" in banner
        assert "space pause" in banner
        assert why in shown(app.dashboard.vitals).replace("…", "") or "tasks waited" in shown(app.dashboard.vitals)
    warning = msgspec.structs.replace(critical, level="warning")
    async with running([header(), *decode(2), reading(0.5, 0, pressure=warning)]) as (app, _, _):
        assert "critical" not in shown(app.dashboard.query_one("#banner"))


# Heat


@pytest.mark.parametrize(
    ("celsius", "ink"), [(89.9, "text"), (90.0, "warn"), (99.9, "warn"), (100.0, "bad"), (107.0, "bad")]
)
async def test_a_temperature_is_judged_by_its_own_limits(celsius, ink):
    found = [Temperature(sensor="coretemp", celsius=celsius, high=100.0, critical=105.0)]
    async with running([header(), Vitals(t=1.0, temperatures=found)]) as (app, _, _):
        panel = app.dashboard.vitals
        assert f"coretemp    {celsius:.0f} °C of 100" in shown(panel)
        expected = panel.palette.text if ink == "text" else getattr(panel.palette.status, ink)
        assert style_at(panel, 12, 0).color == expected.color


async def test_without_a_limit_no_temperature_is_a_warning():
    found = [Temperature(sensor="Apple CPU mean", celsius=104.0)]
    async with running([header(), Vitals(t=1.0, temperatures=found)]) as (app, _, _):
        panel = app.dashboard.vitals
        assert style_at(panel, 12, 0).color == panel.palette.text.color


async def test_clocks_level_memory_and_source_have_a_line_each():
    last = Vitals(
        t=1.0,
        thermal_level="serious",
        clocks=[Clock(device="CPU", kind="cpu", mhz=3210.0, max=4800.0), Clock(device="GPU", kind="gpu", mhz=461.0)],
        gpu_memory=[GpuMemory(device="NVIDIA GPU 0", used=60_000_000_000, total=80_000_000_000)],
        throttling=True,
        throttling_source="NVML: NVIDIA GPU 0: hardware thermal slowdown",
    )
    async with running([header(), last], size=(200, 60)) as (app, _, _):
        text = shown(app.dashboard.vitals)
        for line in ("thermal     serious", "CPU clock   3.21 GHz of 4.80", "GPU clock   0.46 GHz", "60.0 of 80.0 GB"):
            assert line in text
        assert "throttling  yes: slowed down by heat or power" in text
        assert "NVML: NVIDIA GPU 0: hardware" in text
        assert "inferred" not in text


def slowing(mhz=2100.0, speed=6):
    """A run of 80 s at 10 tokens per second, slower in the second half."""
    items, i = [header()], 0
    for second in range(80):
        count = 10 if second < 40 else speed
        for each in range(count):
            items += [msgspec.structs.replace(token, t=second + each / count) for token in decode(1, i)]
            i += 1
        now = 3000.0 if second < 40 else mhz
        items.append(Vitals(t=second + 1.0, clocks=[Clock(device="CPU", kind="cpu", mhz=now)]))
    return items


async def test_inferred_throttling_has_both_numbers():
    async with running(slowing(), size=(200, 60)) as (app, _, _):
        assert "inferred    throttled: tok/s −40 % clock −30 %" in shown(app.dashboard.vitals)
    async with running(slowing(mhz=3000.0), size=(200, 60)) as (app, _, _):
        assert "inferred    no throttling" in shown(app.dashboard.vitals)


async def test_a_replay_infers_the_same():
    async with running(slowing(), size=(200, 60), abilities=REPLAY, origin=REPLAYING) as (app, _, _):
        assert "throttled: tok/s −40 % clock −30 %" in shown(app.dashboard.vitals)
