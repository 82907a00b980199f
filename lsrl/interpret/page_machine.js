"use strict";
const make = (tag, className, ...children) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children);
  return node;
};
const clamp = (value, low, high) => Math.max(low, Math.min(high, value));
const plural = (count, one) => `${count.toLocaleString("en")} ${one}${count === 1 ? "" : "s"}`;

/** A machine at work above the board. A moment is a token's number, further ones than the board's
 * among them; the page tells which is shown. */
const machineAtWork = (film, page) => {
  const $ = (id) => document.getElementById(id);
  const AROUND = 3; // instructions shown ahead of the current one, and behind it
  const FIELDS = ["pc", "text", "effect", "code", "reads", "write", "value", "said", "key", "next"];
  const frames = film.frames.map((frame) =>
    Object.fromEntries(FIELDS.map((name, place) => [name, frame[place]])));

  // ------------------------------------------------------------ moments

  /** How many instructions are done at a moment, the one at work there included. */
  const doneAt = (moment) => clamp(
    moment < film.ahead ? 0 : Math.floor((moment - film.ahead) / film.pace) + 1, 0, frames.length);
  /** The last moment of an instruction; the first is 1, and 0 is what the prompt has written. */
  const momentOf = (done) => film.ahead + film.pace * done - 1;
  const least = momentOf(0) < 0 ? 1 : 0;

  // ------------------------------------------------------------ cells

  const minus = (text) => text.replace(/-/g, "−");
  const brief = (value, digits) => {
    const texts = [String(value)];
    if (typeof value === "number")
      texts.push(String(Number(value.toPrecision(digits))), value.toExponential(1));
    return minus(texts.find((text) => text.length <= digits + 3) ?? texts.pop());
  };
  const textOf = (value) => (Array.isArray(value)
    ? value.map((row) => row.map((one) => brief(one, 3).padStart(6)).join("")).join("\n")
    : brief(value, 5));
  const isZero = (value) => [value].flat(2).every((one) => one === 0);

  const held = [...film.memory];
  /** What each write has replaced, to go back. */
  const replaced = frames.map((frame) => {
    if (frame.write === null) return null;
    const old = held[frame.write];
    held[frame.write] = frame.value;
    return old;
  });
  held.splice(0, held.length, ...film.memory);

  const used = new Set([...film.memory.keys()].filter((place) => !isZero(film.memory[place])));
  for (const { code, reads, write } of frames)
    for (const place of [...code, ...reads, ...(write === null ? [] : [write])]) used.add(place);

  const boxes = new Map();
  const buildCells = () => {
    const all = [...film.memory.keys()];
    const texts = [...film.memory, ...frames.map((frame) => frame.value)].flatMap((value) =>
      textOf(value).split("\n").map((line) => line.length));
    const wide = texts.reduce((most, length) => Math.max(most, length), 4);
    $("cells").style.setProperty("--cell", `calc(${wide * 0.62 * 12}px + 12px)`);
    for (let place = 0; place < all.length; ) {
      let end = place;
      while (end < all.length && !used.has(end)) end++;
      if (end - place > 3) {
        const [first, last] = [film.addresses[place], film.addresses[end - 1]];
        const gap = make("div", "word gap", make("small", "", `${first}–${last}`), make("b", "", "0"));
        gap.title = "hold 0 all along, and nothing reads or writes them";
        $("cells").append(gap);
        place = end;
        continue;
      }
      const name = film.names[place];
      const box = make("div", name ? "word labelled" : "word",
        make("small", "", name || String(film.addresses[place])), make("b"));
      box.dataset.place = place;
      const own = place;
      box.addEventListener("pointermove", (event) => page.tell(event, told(own)));
      box.addEventListener("pointerleave", page.hush);
      boxes.set(place, box);
      $("cells").append(box);
      write(place);
      place++;
    }
  };

  const told = (place) => {
    const name = film.names[place];
    const address = film.addresses[place];
    const value = Array.isArray(held[place]) ? `\n${textOf(held[place])}` : minus(String(held[place]));
    return `${name && `${name}, `}address ${address}\n${value}`;
  };

  const write = (place) => {
    const box = boxes.get(place);
    box.lastChild.textContent = textOf(held[place]);
    box.classList.toggle("zero", isZero(held[place]));
  };

  /** Writes forth or back, up to the state after so many instructions. */
  let done = 0;
  const replayTo = (wanted) => {
    const touched = new Set();
    const put = (place, value) => {
      if (place === null) return;
      held[place] = value;
      touched.add(place);
    };
    for (; done < wanted; done++) put(frames[done].write, frames[done].value);
    for (; done > wanted; done--) put(frames[done - 1].write, replaced[done - 1]);
    touched.forEach(write);
  };

  let marked = [];
  const mark = () => {
    for (const box of marked) box.classList.remove("opcode", "operand", "written");
    marked = [];
    if (!done) return;
    const { code, reads, write: written } = frames[done - 1];
    const put = (places, className) => {
      for (const place of places) {
        boxes.get(place).classList.add(className);
        marked.push(boxes.get(place));
      }
    };
    put(code, "opcode");
    put(reads, "operand");
    if (written === null) return;
    put([written], "written");
    const [box, all] = [boxes.get(written), $("cells")];
    const top = box.offsetTop - all.offsetTop;
    if (top < all.scrollTop || top + box.offsetHeight > all.scrollTop + all.clientHeight)
      all.scrollTop = top - all.clientHeight / 2;
  };

  // ------------------------------------------------------------ instruction and text

  const lines = [...Array(2 * AROUND + 1).keys()].map(() => make("div", "", make("span"), make("span"), make("span")));
  const list = () => {
    lines.forEach((line, offset) => {
      const place = done - 1 + offset - AROUND;
      const frame = done || offset > AROUND ? frames[place] : undefined;
      const texts = frame ? [String(frame.pc), frame.text, minus(frame.effect)] : ["", "", ""];
      texts.forEach((text, column) => (line.children[column].textContent = text));
      line.title = frame ? `${frame.text}\n${minus(frame.effect)}` : "";
      line.className = offset === AROUND && done ? "now" : place >= done ? "to-come" : "";
    });
  };

  const letter = (code) => String.fromCharCode(code & 255);
  /** What was printed after so many instructions. */
  const printed = [""];
  for (const { said } of frames)
    printed.push(printed[printed.length - 1] + (said === null ? "" : letter(said)));
  const print = () => {
    if ($("printed").textContent === printed[done]) return;
    $("printed").textContent = printed[done];
    $("printed").scrollTop = $("printed").scrollHeight;
  };

  const ENDS = { halted: "halted", waiting: "waits for a key", going: "goes on behind this run" };
  const count = () => {
    const last = frames.length.toLocaleString("en");
    $("done").textContent = done
      ? `instruction ${done.toLocaleString("en")} of ${last}`
      : `loaded, ahead of ${plural(frames.length, "instruction")}`;
    const cut = film.steps - frames.length;
    const ends = done === frames.length;
    $("ending").textContent = !ends ? "" : cut ? `${cut.toLocaleString("en")} more are not on this page` : ENDS[film.ends];
    $("ending").className = ends && !cut ? film.ends : "";
    $("ending").title = $("ending").textContent;
    $("instruction").value = done;
    $("instruction").setAttribute("aria-valuetext", `instruction ${done} of ${frames.length}`);
  };

  // ------------------------------------------------------------ play

  let timer = null;
  const pause = () => {
    if (timer === null) return;
    clearInterval(timer);
    timer = null;
    $("play").textContent = "▶";
    $("play").setAttribute("aria-label", "Play");
    page.remember();
  };
  const turn = (to) => page.goTo(momentOf(clamp(to, least, frames.length)));
  const start = () => {
    if (done === frames.length) turn(least);
    $("play").textContent = "❚❚";
    $("play").setAttribute("aria-label", "Pause");
    timer = setInterval(() => {
      turn(done + 1);
      if (done === frames.length) pause();
    }, 1000 / Number($("speed").value));
  };
  const play = () => (timer === null ? start() : pause());

  const show = (moment) => {
    replayTo(doneAt(moment));
    mark();
    list();
    print();
    count();
  };

  $("machine").hidden = false;
  $("play-key").hidden = false;
  $("instruction").min = least;
  $("instruction").max = frames.length;
  $("said").hidden = !printed[frames.length];
  $("opcode").hidden = frames.every((frame) => !frame.code.length);
  const letters = (field, most) =>
    clamp(Math.max(...frames.map((frame) => frame[field].length), 0), 8, most);
  $("listing").style.setProperty("--columns",
    `minmax(0, ${letters("text", 24)}fr) minmax(0, ${letters("effect", 32)}fr)`);
  $("listing").append(...lines);
  const shown = doneAt(page.signals - 1);
  if (shown < frames.length)
    $("store-note").textContent = `signals below: up to instruction ${shown.toLocaleString("en")}`;
  buildCells();
  $("play").addEventListener("click", play);
  $("undo").addEventListener("click", () => turn(done - 1));
  $("redo").addEventListener("click", () => turn(done + 1));
  $("instruction").addEventListener("input", () => turn(Number($("instruction").value)));
  $("speed").addEventListener("change", () => {
    if (timer === null) return;
    pause();
    start();
  });
  return { show, play, playing: () => timer !== null, first: momentOf(least), last: momentOf(frames.length) };
};
