"""The page for people in headless Chromium, on a real server; its fake microphone plays recordings."""

import io
import shutil
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import soundfile
from playwright.sync_api import expect, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
RATE_HZ = 16000
TEXTS = ("AB", "C A", "BA", "ABC", "CC", "B", "CAB", "A B")
NO_MICROPHONE = """() => {
  navigator.mediaDevices.getUserMedia = async () => { throw new DOMException("", "NotFoundError"); };
}"""
KEEP_SENT = """() => {
  const send = window.fetch;
  window.fetch = (path, options) => { window.sent = options.body; return send(path, options); };
}"""
SENT = "async () => Array.from(new Uint8Array(await window.sent.arrayBuffer()))"
WAITING = b"POST /v1/recognize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"

STOP_AT_ONCE = """() => {
  const observer = new MutationObserver(() => {
    const stop = [...document.querySelectorAll("button")].find((button) => button.textContent === "Stop");
    if (stop) { observer.disconnect(); stop.click(); }
  });
  observer.observe(document.body, { childList: true, characterData: true, subtree: true });
}"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def microphone(tmp_path_factory):
    """Set what every recording from now on hears again and again: samples (N,) at 16 kHz."""
    path = tmp_path_factory.mktemp("microphone") / "speech.wav"

    def play(samples):
        soundfile.write(path, samples, RATE_HZ, subtype="PCM_16")

    play(tone())
    play.path = path
    return play


@pytest.fixture(scope="module")
def browser(microphone):
    """Chromium without a screen."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no Chromium is installed; on Debian: apt-get install chromium")
    fake = f"--use-file-for-fake-audio-capture={microphone.path}"
    words = ("--no-sandbox", "--use-fake-device-for-media-stream", fake)
    with sync_playwright() as playwright:
        named = "--host-resolver-rules=MAP clinic.example 127.0.0.1"
        browser = playwright.chromium.launch(executable_path=found, args=[*words, named])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def plain(started, base_dir, submodels):
    """A server without enrolment, also known as clinic.example, of four requests at once and short ones."""
    limits = ("--max-sec", "3", "--max-queue", "4", "--allowed-host", "clinic.example")
    with started("--base", base_dir, "--submodels", submodels, *limits) as server:
        yield server


@pytest.fixture(scope="module")
def keeping(started, base_dir, submodels, tmp_path_factory):
    """A server that keeps recordings and enrolls; it has the three Submodels too."""
    folder = tmp_path_factory.mktemp("keeping")
    (folder / "prompts.txt").write_text("".join(f"p{number} {text}\n" for number, text in enumerate(TEXTS)))
    shutil.copytree(submodels, folder / "submodels")
    own = ("--enroll", folder / "people", "--prompts", folder / "prompts.txt")
    with started("--base", base_dir, "--submodels", folder / "submodels", *own) as server:
        yield server


@pytest.fixture(scope="module")
def guarded(started, base_dir, submodels, tmp_path_factory):
    """A server that asks for a token, sesame."""
    path = tmp_path_factory.mktemp("guarded") / "tokens"
    path.touch(mode=0o600)
    path.write_text("sesame\n")
    with started("--base", base_dir, "--submodels", submodels, "--token-file", path) as server:
        yield server


@pytest.fixture
def visit(browser):
    """Open the page of a server at a phone's width, as a new visitor; its problems and requests are kept."""
    contexts = []

    def open_page(address, *, allows=("microphone",)):
        size = {"width": 360, "height": 740}
        contexts.append(browser.new_context(viewport=size, reduced_motion="reduce"))
        contexts[-1].set_default_timeout(20000)
        contexts[-1].grant_permissions(list(allows))
        page = contexts[-1].new_page()
        page.problems, page.asked = [], []
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()


def tone(seconds=0.8, level=0.3):
    """A rising tone with a beginning and an end."""
    times = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    return level * np.sin(2 * np.pi * (300 + 400 * times) * times) * np.hanning(len(times))


def press(page, name):
    page.get_by_role("button", name=name, exact=True).click()


def start_recording(page, name="Start recording"):
    press(page, name)
    page.get_by_role("button", name="Stop", exact=True).wait_for()


def record(page, name="Start recording", seconds=0.6):
    start_recording(page, name)
    page.wait_for_timeout(1000 * seconds)
    press(page, "Stop")


def choose(page, speaker):
    page.get_by_label("Speaker", exact=True).select_option(speaker)
    press(page, "Continue")


def assert_fits_a_phone(page):
    assert page.evaluate("document.documentElement.scrollWidth <= 360")


def likeness(body, played):
    """The largest cosine between a stretch of a recording and what was played."""
    samples, rate_hz = soundfile.read(io.BytesIO(body))
    assert (samples.ndim, rate_hz) == (1, RATE_HZ)
    energies = np.convolve(samples**2, np.ones(len(played)), mode="valid")
    return np.max(np.correlate(samples, played) / np.sqrt(energies + 1e-9)) / np.linalg.norm(played)


def hosts(page):
    return {urlsplit(url).netloc for url in page.asked if not url.startswith("blob:")}


def test_a_known_speaker_sees_the_base_and_the_own_text_of_what_the_microphone_heard(plain, visit):
    page = visit(plain.url)
    assert_fits_a_phone(page)
    choose(page, "spk1")
    page.evaluate(KEEP_SENT)
    start_recording(page)
    page.locator("#results").wait_for()  # after three seconds

    body = bytes(page.evaluate(SENT))
    texts = [plain.post(body, speaker).json()["text"] or "(nothing understood)" for speaker in (None, "spk1")]
    assert page.locator(".heard").all_inner_texts() == texts
    assert likeness(body, tone()) > 0.98
    assert page.get_by_text("Stopped after 3 s, the longest that the server takes.").is_visible()
    assert not page.get_by_label("What you said").is_visible()  # nothing is kept without --enroll
    assert_fits_a_phone(page)
    assert (page.problems, hosts(page)) == ([], {urlsplit(plain.url).netloc})


@pytest.mark.parametrize(
    ("samples", "said", "is_sent"),
    [
        (tone(level=0.004), "very quiet", True),
        (np.clip(tone(level=4), -1, 1), "too loud", True),
        (np.zeros(RATE_HZ), "Nothing was heard", False),
    ],
    ids=["quiet", "clipped", "silent"],
)
def test_a_bad_recording_is_explained(plain, visit, microphone, samples, said, is_sent):
    microphone(samples)
    page = visit(plain.url)
    choose(page, "spk1")
    record(page)
    expect(page.locator("#speak .said")).to_contain_text(said)
    microphone(tone())
    expect(page.locator("#results")).to_be_visible(visible=is_sent)


def test_nobody_in_particular_sees_the_base_alone_once_there_was_time_to_speak(plain, visit):
    page = visit(plain.url)
    choose(page, "")
    page.evaluate(STOP_AT_ONCE)  # within 0.3 s, however busy the machine
    press(page, "Start recording")
    expect(page.locator("#speak .said")).to_contain_text("too short")
    assert not page.get_by_role("button", name="Listen").is_visible()
    record(page)
    expect(page.get_by_role("heading", name="Ordinary recogniser")).to_be_visible()
    assert not page.get_by_role("heading", name="Your recogniser").is_visible()


def test_a_microphone_that_may_not_be_used_or_is_missing_is_explained(plain, visit):
    page = visit(plain.url, allows=())
    choose(page, "spk1")
    press(page, "Start recording")
    expect(page.get_by_role("alert")).to_contain_text("may not use the microphone")
    page.evaluate(NO_MICROPHONE)
    press(page, "Start recording")
    expect(page.get_by_role("alert")).to_contain_text("No microphone was found")


def test_an_address_without_encryption_is_explained(plain, visit):
    page = visit(f"http://clinic.example:{plain.port}/")
    choose(page, "spk1")
    press(page, "Start recording")
    expect(page.get_by_role("alert")).to_contain_text("https://")
    assert page.problems == []


def test_a_recording_survives_a_full_server_and_a_lost_connection(plain, visit):
    page = visit(plain.url)
    choose(page, "spk1")
    connections = [plain.connect() for _ in range(4)]
    for connection in connections:
        connection.sendall(WAITING)
    record(page)
    expect(page.get_by_role("alert")).to_contain_text("The server is busy")
    for connection in connections:
        connection.close()

    page.context.set_offline(True)
    press(page, "Send it again")
    expect(page.get_by_role("alert")).to_contain_text("does not answer")
    page.context.set_offline(False)
    press(page, "Send it again")
    expect(page.locator("#results")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_text("")


def test_a_visitor_who_leaves_while_recording_or_sending_leaves_nothing_behind(plain, visit):
    page = visit(plain.url)
    choose(page, "spk1")
    start_recording(page)
    page.goto("about:blank")
    page.goto(plain.url)
    choose(page, "spk1")
    record(page)
    page.close()

    page = visit(plain.url)
    choose(page, "spk2")
    record(page)
    expect(page.locator("#results")).to_be_visible()
    assert httpx.get(f"{plain.url}/health").json()["queue_length"] == 0


def test_a_token_is_asked_for_until_it_is_right_and_kept_in_the_tab(guarded, visit):
    page = visit(guarded.url)
    for token, help_text in (("wrong", "The person who runs it"), ("sesame", "was not accepted")):
        expect(page.get_by_role("dialog", name="Access token")).to_contain_text(help_text)
        page.get_by_label("Token", exact=True).fill(token)
        page.keyboard.press("Enter")
    choose(page, "spk1")
    record(page)
    expect(page.locator("#results")).to_be_visible()
    assert page.problems == []

    page.reload()
    expect(page.get_by_label("Speaker", exact=True)).to_be_visible()
    page.evaluate("sessionStorage.clear()")
    page.reload()
    page.get_by_role("dialog").wait_for()
    page.keyboard.press("Escape")
    expect(page.get_by_role("alert")).to_contain_text("needs an access token")
    press(page, "Try again")
    expect(page.get_by_role("dialog")).to_be_visible()


def tab_to(page, chosen):
    """Press Tab until the focus is on the element of a selector."""
    for _ in range(20):
        if page.evaluate("selector => document.activeElement.matches(selector)", chosen):
            return
        page.keyboard.press("Tab")
    pytest.fail(f"{chosen} is not reached by Tab")


def assert_focused(page, chosen):
    expect(page.locator(chosen)).to_be_focused()


def test_a_speaker_is_made_recorded_and_deleted_by_keyboard_alone(keeping, visit):
    page = visit(keeping.url)
    page.get_by_role("heading", name="Somebody new").wait_for()
    tab_to(page, "#new-name")
    page.keyboard.type("two words")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("A name is one word")
    page.keyboard.press("Control+a")
    page.keyboard.type("keys")
    page.keyboard.press("Enter")
    assert_focused(page, "#read-title")
    tab_to(page, "#read .toggle")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Stop", exact=True).wait_for()
    page.wait_for_timeout(700)
    page.keyboard.press("Space")
    assert_focused(page, "#keep")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Sentence 2 of 8 (1 recorded)")).to_be_visible()
    assert_focused(page, "#read .toggle")

    tab_to(page, "#delete")
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    assert_focused(page, "#delete")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_text("keys is deleted.")).to_be_visible()
    assert httpx.get(f"{keeping.url}/v1/speakers").json() == {"speakers": []}


def test_a_recording_can_be_listened_to_and_replaced(keeping, visit):
    page = visit(keeping.url)
    page.get_by_label("A name for the new speaker").fill("bob")
    press(page, "Make a new speaker")
    record(page)
    press(page, "Keep it and go on")
    press(page, "Previous sentence")
    first = recordings_of(keeping, "bob")

    record(page, "Record again")
    press(page, "Listen")
    record(page, "Record again", seconds=0.9)
    press(page, "Keep it and go on")
    press(page, "Previous sentence")
    expect(page.get_by_text("This sentence is recorded.")).to_be_visible()
    press(page, "Listen")
    press(page, "Stop listening")
    press(page, "Listen")
    page.get_by_role("button", name="Stop listening").wait_for()
    expect(page.get_by_role("button", name="Listen", exact=True)).to_be_visible()

    second = recordings_of(keeping, "bob")
    assert [(one["prompt"], one["text"]) for one in second] == [("p0", "AB")]
    assert first[0]["id"] != second[0]["id"]
    assert_fits_a_phone(page)
    assert (page.problems, hosts(page)) == ([], {urlsplit(keeping.url).netloc})


def recordings_of(server, speaker):
    return httpx.get(f"{server.url}/v1/speakers/{speaker}").json()["recordings"]


def test_a_screen_reader_finds_what_is_on_the_page(keeping, visit):
    page = visit(keeping.url)
    page.get_by_label("A name for the new speaker").fill("eve")
    press(page, "Make a new speaker")
    expect(page.locator("body")).to_match_aria_snapshot("""
      - banner:
        - heading "A recogniser for your voice" [level=1]
        - paragraph:
          - strong: eve
        - button "Change speaker"
        - navigation "Steps":
          - button "1 Read"
          - button "2 Learn"
          - button "3 Speak"
      - main:
        - region "Read aloud":
          - heading "Read aloud" [level=2]
          - paragraph
          - figure "Sentence 1 of 8 (0 recorded)":
            - blockquote: AB
          - button "Start recording"
          - status
          - alert
          - button "Previous sentence" [disabled]
          - button "Next sentence"
      - contentinfo:
        - paragraph:
          - button "Delete this speaker…"
        - paragraph:
          - 'link "For programs: the API of this server"'
    """)
    assert page.locator("#read .toggle").evaluate("one => one.getAttribute('aria-describedby')") == "prompt"
    assert page.locator("#steps [aria-current=step]").all_inner_texts() == ["1 Read"]


def test_a_voice_is_learned_used_corrected_and_deleted(keeping, visit, microphone, recordings):
    microphone(tone())
    page = visit(keeping.url)
    page.get_by_label("A name for the new speaker").fill("anna")
    press(page, "Make a new speaker")
    press(page, "2 Learn")
    press(page, "Learn my voice")
    expect(page.get_by_role("alert")).to_contain_text("record at least 5")
    for number in range(6):
        path = f"{keeping.url}/v1/speakers/anna/recordings"
        files = {"file": recordings[f"spk1-{number:02}"]}
        assert httpx.post(path, files=files, data={"prompt": f"p{number}"}).status_code == 201

    press(page, "Change speaker")
    choose(page, "anna")
    expect(page.get_by_text("Sentence 7 of 8 (6 recorded)")).to_be_visible()
    for _ in range(2):
        record(page)
        press(page, "Keep it and go on")
    expect(page.get_by_text("8 of 8 sentences are recorded")).to_be_visible()

    press(page, "Learn my voice")
    press(page, "Cancel")
    expect(page.get_by_text("Cancelled. Your recordings are kept.")).to_be_visible(timeout=20000)
    assert_focused(page, "#start")
    press(page, "Learn my voice again")
    assert_focused(page, "#cancel")
    expect(page.get_by_text("Your recogniser is ready.")).to_be_visible(timeout=120000)
    assert_focused(page, "#try")

    press(page, "Try it: speak")
    record(page)
    expect(page.get_by_role("heading", name="Your recogniser")).to_be_visible()
    page.get_by_label("What you said").fill("CAB")
    press(page, "Send the right words")
    expect(page.get_by_text("Thank you.")).to_be_visible()
    kept = [one["text"] for one in recordings_of(keeping, "anna") if one["kind"] == "correction"]
    assert kept == ["CAB"]

    press(page, "Delete this speaker…")
    press(page, "Delete everything")
    expect(page.get_by_text("anna is deleted.")).to_be_visible()
    assert httpx.get(f"{keeping.url}/v1/speakers/anna").status_code == 404
    assert "anna" not in httpx.get(f"{keeping.url}/v1/submodels").text
    assert page.problems == []


def test_the_page_of_the_api_shows_every_route_and_asks_its_own_server_only(plain, visit):
    page = visit(f"{plain.url}/docs")
    page.locator(".opblock").first.wait_for()
    operations = [
        verb for verbs in httpx.get(f"{plain.url}/openapi.json").json()["paths"].values() for verb in verbs
    ]
    assert page.locator(".opblock").count() == len(operations)

    page.locator(".opblock", has_text="/health").click()
    press(page, "Try it out")
    press(page, "Execute")
    page.locator(".live-responses-table").wait_for()
    assert f"'{plain.url}/health'" in page.locator(".curl-command").inner_text()
    assert '"ready": true' in page.locator(".live-responses-table").inner_text()
    assert (page.problems, hosts(page) - {""}) == ([], {urlsplit(plain.url).netloc})
