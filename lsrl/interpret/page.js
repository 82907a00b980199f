// All text goes into the page as text nodes: names and sources may hold any characters.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const circuit = data.circuit;
  const OUTPUT = "output";
  const KINDS = { "same step": "same", carry: "carry", lag: "lag", gate: "gate", "fed back": "fed", folded: "folded-edge" };
  const $ = (id) => document.getElementById(id);

  // The namespace comes from the page's own drawing, so that no address stands in this file.
  const drawing = $("wires");
  const shape = (tag, attributes) => {
    const node = document.createElementNS(drawing.namespaceURI, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    return node;
  };

  // ------------------------------------------------------------ the model

  const layers = circuit.units.length; // that of the input map first
  const outputs = data.outputs[0].length / data.tokens;

  /** One entry a row: signals, then named affine maps without channels, then the output. */
  const rows = [];
  const byName = new Map();
  const addRow = (row) => {
    rows.push(row);
    byName.set(row.name, row);
  };
  const heldBy = new Map(); // signal -> layer -> channels
  for (const channel of circuit.channels) {
    if (!heldBy.has(channel.signal)) heldBy.set(channel.signal, new Map());
    const held = heldBy.get(channel.signal);
    if (!held.has(channel.layer)) held.set(channel.layer, []);
    held.get(channel.layer).push(channel);
  }
  for (const signal of circuit.signals) {
    const held = heldBy.get(signal.name) ?? new Map();
    const made = [...held.values()].flat().some((channel) => channel.role === "made");
    addRow({
      ...signal,
      held,
      constant: signal.kind === "constant",
      values: made ? data.values[signal.name] : undefined,
    });
  }
  for (const derived of circuit.derived) {
    const bottom = Math.max(0, ...derived.terms.map((term) => byName.get(term[1])?.layer ?? 0));
    addRow({
      ...derived,
      names: [derived.name],
      kind: "folded",
      layer: bottom,
      held: new Map(),
      values: data.values[derived.name],
    });
  }
  // A signal of that name would be another one: the circuit keeps the name for the output.
  addRow({
    name: OUTPUT, kind: OUTPUT, names: [OUTPUT], layer: layers, width: outputs, held: new Map(),
    values: data.outputs,
  });
  rows.forEach((row, index) => (row.index = index));

  /** Edges between signals, with the weights between their elements. */
  const edges = [];
  const edgeByKey = new Map();
  const addEdge = (source, target, kind, lag, part) => {
    const key = JSON.stringify([source, target, kind, lag]);
    let edge = edgeByKey.get(key);
    if (!edge) {
      edge = { source, target, kind, lag, parts: [] };
      edgeByKey.set(key, edge);
      edges.push(edge);
    }
    edge.parts.push(part);
  };
  for (const edge of circuit.edges)
    addEdge(edge.source, edge.target, edge.kind, edge.lag,
      [edge.source_element, edge.target_element, edge.weight]);
  for (const derived of circuit.derived)
    for (const [element, source, sourceElement, weight] of derived.terms)
      addEdge(source, derived.name, "folded", 0, [sourceElement, element, weight]);

  /** All that can be reached over the edges, in one direction. */
  const reachable = (start, from, to) => {
    const found = new Set();
    const pending = [start];
    while (pending.length) {
      const name = pending.pop();
      for (const edge of edges)
        if (edge.kind !== "fed back" && edge[from] === name && edge[to] !== start && !found.has(edge[to])) {
          found.add(edge[to]);
          pending.push(edge[to]);
        }
    }
    return found;
  };

  const number = (value) => (typeof value === "number" ? value : Number.NaN);
  // An element that no channel holds has the value null.
  const exactly = (value) => (value === null ? "·" : String(value).replace("-", "−"));
  const shortly = (value) => {
    if (value === null) return "·";
    if (typeof value !== "number") return String(value);
    const full = String(value);
    return (full.length <= 8 ? full : Number(value.toPrecision(6)).toString()).replace("-", "−");
  };
  const valueAt = (row, sequence, token, element) =>
    row.values[sequence][token * row.width + element];
  const valuesAt = (row) =>
    row.values[state.sequence].slice(state.token * row.width, (state.token + 1) * row.width);

  for (const row of rows) {
    if (!row.values) continue;
    // Only elements that channels hold are drawn.
    row.drawn = [...Array(row.width).keys()].filter((element) => row.values[0][element] !== null);
    row.greatest = 0;
    for (const sequence of row.values)
      for (const value of sequence)
        if (Number.isFinite(value)) row.greatest = Math.max(row.greatest, Math.abs(value));
  }

  // In pixels, letters that can be read and those that need not be larger; and how wide one is.
  const [SMALL, LARGE, ASPECT] = [8, 11, 0.61];
  /** Whether cells have more than one letter, as −1 and 10 do: all of them are as wide as two then. */
  const lettered = rows.some((row) => row.width === 1 && row.drawn?.length &&
    row.values.some((sequence) => sequence.some((value) => shortly(value).length > 1))) ||
    data.inputs.some((input) => input.symbols && input.texts.flat().some((text) => text.length > 1));
  const least = Math.ceil((lettered ? 2 : 1) * SMALL * ASPECT) + 2;

  // ------------------------------------------------------------ state

  // Of a machine there may be moments behind the last token whose signals are here.
  const state = { sequence: 0, moment: 0, token: 0, signal: null, layer: null, query: "", constants: false };
  let hovered = null;
  let seen = { first: 0, count: data.tokens, cell: 12 };
  let size = {};

  const machine = data.machine && machineAtWork(data.machine, {
    goTo: (moment) => goTo(moment), remember: () => remember(), tell: (...what) => tell(...what),
    hush: () => hush(), signals: data.tokens,
  });
  const lastMoment = Math.max(data.tokens - 1, machine ? machine.last : 0);

  // ------------------------------------------------------------ the board

  const longest = Math.max(...rows.map((row) => row.name.length));
  let column = 28; // pixels a layer; see layout
  const columnAt = (layer) => 10 + (layer + 0.5) * column;

  const buildRows = () => {
    for (const row of rows) {
      const label = make("b", "", row.name);
      const button = make("button", "name", label);
      button.title = row.name;
      if (row.width > 1) button.append(make("i", "", `×${row.width}`));
      button.tabIndex = -1;
      row.element = make("div", "row", button, make("div"));
      row.element.dataset.signal = row.name;
      row.button = button;
      row.value = make("div", "value");
      row.canvas = make("canvas");
      row.canvas.width = row.canvas.height = 0; // until it is painted: by default it is large
      row.canvas.hidden = !row.drawn?.length;
      row.element.append(row.value, row.canvas);
      if (!row.names?.length) row.element.classList.add("unnamed");
      button.addEventListener("click", () => select(row.name === state.signal ? null : row.name));
      row.element.addEventListener("pointerenter", () => hover(row.name));
      row.element.addEventListener("pointerleave", () => hover(null));
      row.canvas.addEventListener("pointerdown", (event) => goTo(tokenUnder(row, event).token));
      row.canvas.addEventListener("pointermove", (event) => {
        const { token, element } = tokenUnder(row, event);
        const place = `${row.name}${row.width > 1 ? `[${element}]` : ""}`;
        tell(event, `${place} = ${exactly(valueAt(row, state.sequence, token, element))}\ntoken ${token}`);
        if (event.buttons & 1) goTo(token);
      });
      row.canvas.addEventListener("pointerleave", hush);
      $("rows").append(row.element);
    }
  };

  const tokenUnder = (row, event) => {
    const box = row.canvas.getBoundingClientRect();
    return {
      token: clamp(seen.first + Math.floor((event.clientX - box.left) / seen.cell), 0, data.tokens - 1),
      element: row.drawn[clamp(
        Math.floor(((event.clientY - box.top) / box.height) * row.drawn.length), 0, row.drawn.length - 1)],
    };
  };

  /** Sizes and places; again after a change of the window or of the rows that are shown. */
  const layout = () => {
    const wide = $("board").clientWidth;
    const narrow = wide < 600;
    column = clamp(Math.floor(Math.min(360, wide * (narrow ? 0.24 : 0.28)) / (layers + 1)), 5, 28);
    size.names = clamp(Math.ceil(longest * 7.7) + 94, narrow ? 90 : 130, narrow ? Math.max(90, Math.min(108, wide * 0.28)) : 270);
    size.wires = Math.ceil(columnAt(layers) + column / 2 + 6);
    size.value = narrow ? 52 : 96;
    const free = wide - size.names - size.wires - size.value - (narrow ? 4 : 12);
    size.heat = Math.max(narrow ? 92 : 260, free);
    for (const [name, value] of Object.entries(size))
      document.documentElement.style.setProperty(`--${name}`, `${value}px`);
    seen.cell = clamp(Math.floor(size.heat / data.tokens), Math.max(narrow ? 9 : 7, least), 40);
    seen.count = Math.min(data.tokens, Math.floor(size.heat / seen.cell));
    let y = 0;
    let above = null;
    for (const row of rows) {
      row.shown = !row.constant || state.constants;
      row.element.hidden = !row.shown;
      row.element.style.display = row.shown ? "" : "none";
      if (!row.shown) continue;
      row.height = clamp((row.drawn?.length ?? 1) * 7, 24, 70);
      row.element.classList.toggle("first", above !== null && above !== row.layer);
      above = row.layer;
      row.top = y;
      row.element.style.top = `${y}px`;
      row.element.style.height = `${row.height}px`;
      y += row.height;
    }
    $("body").style.height = `${y + 8}px`;
    drawing.style.left = `${size.names}px`;
    drawing.setAttribute("width", size.wires);
    drawing.setAttribute("height", y);
    $("cursor").style.height = `${y}px`;
    placeLayers();
    drawWires();
    showTokens();
    showMarks();
  };

  const middle = (row) => row.top + row.height / 2;

  const drawWires = () => {
    drawing.replaceChildren();
    const lines = shape("g", {});
    const discs = shape("g", {});
    const curves = shape("g", {});
    for (const row of rows) {
      row.wires = [];
      if (!row.shown) continue;
      const held = [...row.held.keys()].sort((a, b) => a - b);
      const y = middle(row);
      if (held.length > 1) {
        const [x1, x2] = [columnAt(held[0]), columnAt(held[held.length - 1])];
        row.wires.push(lines.appendChild(shape("line", { class: "life", x1, x2, y1: y, y2: y })));
      }
      for (const layer of held) {
        const channels = row.held.get(layer);
        const made = channels.some((channel) => channel.role === "made");
        const radius = made ? Math.min(4.5, column * 0.3) : Math.min(2.4, column * 0.2);
        const disc = shape("circle", {
          class: made ? "made" : "held", cx: columnAt(layer), cy: y, r: radius,
        });
        row.wires.push(discs.appendChild(disc));
        const hit = shape("circle", { class: "hit", cx: columnAt(layer), cy: y, r: Math.min(9, column / 2) });
        const roles = [...new Set(channels.map((channel) => channel.role))].join(", ");
        const what = `${row.name}\nlayer ${layer}: ${plural(channels.length, "channel")}, ${roles}\n` +
          `${unitsText(channels)}`;
        hit.addEventListener("pointermove", (event) => tell(event, what));
        hit.addEventListener("pointerenter", () => hover(row.name));
        hit.addEventListener("pointerleave", () => { hush(); hover(null); });
        hit.addEventListener("click", () => select(row.name));
        discs.append(hit);
      }
      if (!held.length) {
        const kind = row.name === OUTPUT ? "output" : "folded";
        const disc = shape("rect", { class: kind, x: columnAt(row.layer) - 4, y: y - 4, width: 8, height: 8, rx: 2 });
        row.wires.push(discs.appendChild(disc));
      }
    }
    const beside = new Map();
    for (const edge of edges) {
      const [source, target] = [byName.get(edge.source), byName.get(edge.target)];
      edge.path = null;
      if (!source?.shown || !target?.shown) continue;
      const pair = JSON.stringify([edge.source, edge.target]);
      const order = beside.get(pair) ?? 0;
      beside.set(pair, order + 1);
      const d = curve(edge, source, target, order * 3);
      edge.path = shape("path", { class: `edge ${KINDS[edge.kind]}`, d });
      edge.path.dataset.source = edge.source;
      edge.path.dataset.target = edge.target;
      edge.path.dataset.kind = edge.kind;
      const reach = shape("path", { class: "reach", d });
      reach.addEventListener("pointermove", (event) => tell(event, edgeText(edge)));
      reach.addEventListener("pointerenter", () => hover(null, edge));
      reach.addEventListener("pointerleave", () => { hush(); hover(null); });
      curves.append(edge.path, reach);
    }
    drawing.append(lines, curves, discs);
  };

  /** From where the source is read to where the target is made. */
  const curve = (edge, source, target, shift) => {
    const end = columnAt(target.layer);
    const [from, to] = [middle(source) + shift, middle(target) + shift];
    if (edge.source === edge.target)
      return `M${end - 3} ${to - 3} C${end - 13} ${to - 15} ${end + 13} ${to - 15} ${end + 3} ${to - 3}`;
    const last = Math.max(source.layer, ...source.held.keys());
    const wanted = edge.kind === "carry" || edge.kind === "folded" ? target.layer : target.layer - 1;
    const start = columnAt(clamp(wanted, source.layer, last));
    if (start >= end) {
      const bend = column * 0.55;
      return `M${start} ${from} C${start + bend} ${from} ${end + bend} ${to} ${end} ${to}`;
    }
    const bend = Math.max((end - start) * 0.55, 6);
    return `M${start} ${from} C${start + bend} ${from} ${end - bend} ${to} ${end} ${to}`;
  };

  const elementText = (name, element) => (byName.get(name)?.width > 1 ? `[${element}]` : "");

  const weightsText = (edge, most) => {
    const shown = edge.parts.slice(0, most).map(([source, target, weight]) => {
      const [from, to] = [elementText(edge.source, source), elementText(edge.target, target)];
      return `${from}${to && `→${to}`}${from || to ? " " : ""}${shortly(weight)}`;
    });
    const more = edge.parts.length - shown.length;
    return shown.join(most > 3 && edge.parts.length > 1 ? "\n" : ", ") + (more ? ` … ${more} more` : "");
  };

  const kindText = (edge) => {
    if (edge.kind === "lag") return `lag ${edge.lag}`;
    if (edge.kind === "carry") return "carry, from the token before";
    if (edge.kind === "fed back") return "fed back, to the token after";
    if (edge.kind === "folded") return "folded, no channels of its own";
    return edge.kind;
  };

  const edgeText = (edge) =>
    `${edge.source} → ${edge.target}\n${kindText(edge)}\n` +
    `${edge.parts.length > 1 ? `${edge.parts.length} weights` : "weight"}: ${weightsText(edge, 8)}`;

  /** Numbers as runs: 0–3, 7. */
  const runs = (numbers) => {
    const sorted = [...new Set(numbers)].sort((a, b) => a - b);
    const found = [];
    for (const value of sorted) {
      const run = found[found.length - 1];
      if (run && run[1] === value - 1) run[1] = value;
      else found.push([value, value]);
    }
    return found.map(([low, high]) => (low === high ? `${low}` : `${low}–${high}`)).join(", ");
  };
  const unitsText = (channels) => {
    const units = channels.flatMap((channel) => channel.units);
    const text = runs(units);
    return `${units.length === 1 ? "unit" : "units"} ${text.length > 60 ? `${text.slice(0, 58)} …` : text}`;
  };

  // ------------------------------------------------------------ heat map

  let colours = {};
  const readColours = () => {
    const style = getComputedStyle(document.documentElement);
    const rgb = (name) => {
      const text = style.getPropertyValue(name).trim();
      return [1, 3, 5].map((place) => Number.parseInt(text.slice(place, place + 2), 16));
    };
    colours = {
      zero: rgb("--band"), positive: rgb("--positive"), negative: rgb("--negative"),
      ink: rgb("--ink"), paper: rgb("--paper"), bad: rgb("--bad"), mono: style.getPropertyValue("--mono"),
    };
  };
  const strength = (value, greatest) =>
    value === 0 || !greatest ? 0 : 0.12 + 0.88 * Math.pow(Math.abs(value) / greatest, 0.75);
  const tintOf = (value, greatest) => {
    if (!Number.isFinite(value)) return colours.bad;
    const [end, s] = [value < 0 ? colours.negative : colours.positive, strength(value, greatest)];
    return colours.zero.map((from, k) => Math.round(from + (end[k] - from) * s));
  };
  /** Of ink and paper the one that stands out more on a colour. */
  const inkOn = (tint) => {
    const light = ([red, green, blue]) => 0.05 +
      0.2126 * (red / 255) ** 2.2 + 0.7152 * (green / 255) ** 2.2 + 0.0722 * (blue / 255) ** 2.2;
    const contrast = (one) => Math.abs(Math.log(light(one) / light(tint)));
    return css(contrast(colours.ink) > contrast(colours.paper) ? colours.ink : colours.paper);
  };
  const css = (tint) => `rgb(${tint.join(",")})`;

  const paint = (row) => {
    row.stale = false;
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [seen.count * seen.cell, row.height - 4];
    row.canvas.width = Math.round(width * ratio);
    row.canvas.height = Math.round(height * ratio);
    row.canvas.style.width = `${width}px`;
    row.canvas.style.height = `${height}px`;
    const context = row.canvas.getContext("2d");
    context.scale(ratio, ratio);
    const gap = seen.cell >= 9 ? 1 : 0;
    const strip = height / row.drawn.length;
    const texts = row.width === 1 ? seenTexts(row) : [];
    const letters = lettersFor(texts, seen.cell - gap - 1);
    context.font = `${letters}px ${colours.mono}`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    // Zeros first: of hundreds of elements, what is not zero stays visible.
    for (let place = 0; place < seen.count; place++)
      for (let turn = 0; turn < 2 * row.drawn.length; turn++) {
        const line = turn % row.drawn.length;
        const value = number(valueAt(row, state.sequence, seen.first + place, row.drawn[line]));
        if ((value === 0) !== turn < row.drawn.length) continue;
        context.fillStyle = css(tintOf(value, row.greatest));
        const lower = strip > 6 && row.drawn.length > 1 ? 1 : 0;
        const tall = Math.max(strip - lower, value === 0 ? strip : 1.5);
        context.fillRect(place * seen.cell, line * strip, seen.cell - gap, tall);
        if (row.width === 1 && value !== 0) {
          context.fillStyle = inkOn(tintOf(value, row.greatest));
          const text = fitted(texts[place], letters, seen.cell - gap - 1);
          context.fillText(text, place * seen.cell + (seen.cell - gap) / 2, height / 2 + 0.5);
        }
      }
  };

  /** What stands in a row's cells; a zero is an empty one. */
  const seenTexts = (row) => [...Array(seen.count).keys()].map((place) => {
    const value = number(valueAt(row, state.sequence, seen.first + place, row.drawn[0]));
    return value === 0 ? "" : shortly(value);
  });

  /** The size at which all of some texts fit a place, but for those that fit at none. */
  const lettersFor = (texts, room) => {
    const most = Math.floor(room / (SMALL * ASPECT));
    const longest = Math.max(1, ...texts.map((text) => text.length).filter((length) => length <= most));
    return clamp(room / (longest * ASPECT), SMALL, LARGE);
  };
  const fitted = (text, letters, room) => (text.length * letters * ASPECT <= room + 0.01 ? text : "…");

  /** Rows out of sight are painted when they come into it: there may be hundreds. */
  const paintSeen = () => {
    const { scrollTop, clientHeight } = $("board");
    for (const row of rows)
      if (row.stale && row.top < scrollTop + clientHeight && row.top + row.height > scrollTop - 100)
        paint(row);
  };
  const repaint = () => {
    for (const row of rows) row.stale = Boolean(row.shown && row.drawn?.length);
    paintSeen();
  };

  // ------------------------------------------------------------ tokens and sequences

  /** After a change of the sequence, the window or the colours: everything over time. */
  const showTokens = () => {
    keepInSight();
    repaint();
    showAxis();
    showToken();
  };

  /** Moves the window of tokens so that the current one is in it; says whether it moved. */
  const keepInSight = () => {
    const { first, count } = seen;
    if (state.token < first) seen.first = state.token;
    if (state.token >= first + count) seen.first = state.token - count + 1;
    seen.first = clamp(seen.first, 0, data.tokens - count);
    return seen.first !== first;
  };

  const showAxis = () => {
    const axis = $("axis");
    axis.replaceChildren();
    const lines = data.inputs.filter((input) => input.symbols).slice(0, 3);
    const every = [1, 2, 5, 10, 20, 50].find((step) => step * seen.cell >= 22) ?? 100;
    axis.style.height = `${16 * (lines.length + 1)}px`;
    const sizes = lines.map((input) => lettersFor(
      input.texts[state.sequence].slice(seen.first, seen.first + seen.count), seen.cell));
    for (let place = 0; place < seen.count; place++) {
      const token = seen.first + place;
      const put = (text, className, line, wide) => {
        const mark = make("span", className, text);
        mark.style.left = `${place * seen.cell}px`;
        mark.style.top = `${16 * line}px`;
        mark.style.width = `${seen.cell * wide - 1}px`;
        mark.dataset.token = token;
        axis.append(mark);
        return mark;
      };
      if (token % every === 0) put(String(token), "index", 0, every === 1 ? 1 : every * 0.98);
      lines.forEach((input, line) => {
        const mark = put(fitted(input.texts[state.sequence][token], sizes[line], seen.cell), "symbol", line + 1, 1);
        mark.style.fontSize = `${sizes[line]}px`;
      });
    }
    for (const mark of axis.querySelectorAll(".index")) mark.style.textAlign = every === 1 ? "center" : "left";
  };

  const showToken = () => {
    $("token").value = state.token;
    $("token").setAttribute("aria-valuetext", `token ${state.token} of ${data.tokens}`);
    $("at").textContent = size.value < 96 ? `at ${state.token}` : `at token ${state.token}`;
    for (const row of rows) {
      let text = "";
      if (row.values) {
        const values = valuesAt(row);
        text = row.width === 1 ? shortly(values[0]) : `[${values.slice(0, 40).map(shortly).join(" ")}]`;
        row.value.dataset.value = JSON.stringify(row.width > 64 ? values.slice(0, 64) : values);
      } else if (row.constant) text = row.expression;
      row.value.textContent = text;
    }
    const cursor = $("cursor").style;
    cursor.left = `${size.names + size.wires + size.value + (state.token - seen.first) * seen.cell - 1.5}px`;
    cursor.width = `${seen.cell + 2}px`;
    for (const mark of $("axis").children)
      mark.classList.toggle("now", Number(mark.dataset.token) === state.token);
    showNow();
    showCells();
    machine?.show(state.moment);
    remember();
  };

  /** Around the cells that the current cell of the selected signal reads, and those that read it. */
  const showCells = () => {
    for (const old of document.querySelectorAll("#body .cell")) old.remove();
    const drawn = new Set();
    const put = (name, token, kind, className) => {
      const row = byName.get(name);
      const place = token - seen.first;
      const key = JSON.stringify([name, token]);
      if (!row?.shown || !row.drawn?.length || place < 0 || place >= seen.count || drawn.has(key)) return;
      drawn.add(key);
      const box = make("div", `cell ${className} ${KINDS[kind]}`);
      box.dataset.signal = name;
      box.dataset.token = token;
      box.style.left = `${size.names + size.wires + size.value + place * seen.cell - 1}px`;
      box.style.top = `${row.top + 1}px`;
      box.style.width = `${seen.cell + 1}px`;
      box.style.height = `${row.height - 2}px`;
      $("body").append(box);
    };
    for (const edge of edges) {
      const ago = edge.lag ?? 0;
      if (edge.target === state.signal) put(edge.source, state.token - ago, edge.kind, "source");
    }
    for (const edge of edges) {
      const ago = edge.lag ?? 0;
      if (edge.source === state.signal) put(edge.target, state.token + ago, edge.kind, "reader");
    }
  };

  const goTo = (token) => {
    const wanted = clamp(token, 0, lastMoment);
    if (wanted === state.moment) return;
    state.moment = wanted;
    state.token = Math.min(wanted, data.tokens - 1);
    if (keepInSight()) {
      repaint();
      showAxis();
    }
    showToken();
  };

  const turnTo = (sequence) => {
    state.sequence = clamp(sequence, 0, data.sequences - 1);
    $("sequence").value = state.sequence;
    showTokens();
  };

  // ------------------------------------------------------------ selection

  const select = (name, scroll = false) => {
    state.signal = name;
    state.layer = null;
    if (name !== null && byName.get(name).constant && !state.constants) {
      state.constants = true;
      layout();
      showLegend();
    }
    showMarks();
    showDetail();
    showCode();
    showCells();
    remember();
    if (scroll && name !== null) reveal(byName.get(name));
  };

  const reveal = (row) => {
    const board = $("board");
    const [head, foot] = [$("head").offsetHeight, $("legend").offsetHeight];
    const free = board.clientHeight - head - foot;
    if (row.top < board.scrollTop) board.scrollTop = row.top - 8;
    else if (row.top + row.height > board.scrollTop + free) board.scrollTop = row.top + row.height - free + 8;
  };

  let path = { above: new Set(), below: new Set() };
  const showMarks = () => {
    const { signal, query } = state;
    path = signal === null
      ? { above: new Set(), below: new Set() }
      : { above: reachable(signal, "target", "source"), below: reachable(signal, "source", "target") };
    const found = matches();
    const direct = edges.filter((edge) => edge.source !== edge.target);
    const readBy = new Set(direct.filter((edge) => edge.target === signal).map((edge) => edge.source));
    const readers = new Set(direct.filter((edge) => edge.source === signal).map((edge) => edge.target));
    for (const row of rows) {
      const on = row.name === signal;
      const marks = row.element.classList;
      marks.toggle("read", readBy.has(row.name));
      marks.toggle("reads", readers.has(row.name) && !readBy.has(row.name));
      marks.toggle("selected", on);
      marks.toggle("ancestor", path.above.has(row.name));
      marks.toggle("descendant", path.below.has(row.name));
      marks.toggle("dim", signal !== null && !on && !path.above.has(row.name) && !path.below.has(row.name));
      marks.toggle("match", query !== "" && found.includes(row));
      marks.toggle("miss", query !== "" && !found.includes(row));
      row.button.setAttribute("aria-pressed", String(on));
      row.button.tabIndex = on || (signal === null && row.index === 0) ? 0 : -1;
      const faint = marks.contains("dim") || marks.contains("miss");
      for (const wire of row.wires) {
        wire.classList.toggle("dim", faint);
        wire.classList.toggle("selected", on);
      }
    }
    for (const button of $("layers").children)
      button.setAttribute("aria-pressed", String(Number(button.dataset.layer) === state.layer));
    showEdges();
  };

  const onPath = (edge) => {
    const { signal } = state;
    const up = (name) => name === signal || path.above.has(name);
    const down = (name) => name === signal || path.below.has(name);
    return signal !== null &&
      ((up(edge.source) && up(edge.target)) || (down(edge.source) && down(edge.target)));
  };

  const showEdges = (only = null) => {
    for (const edge of edges) {
      if (!edge.path) continue;
      const touched = hovered !== null && (edge.source === hovered || edge.target === hovered);
      const own = state.signal !== null && (edge.source === state.signal || edge.target === state.signal);
      const marks = edge.path.classList;
      marks.toggle("strong", edge === only || touched || own);
      marks.toggle("on", onPath(edge));
      marks.toggle("dim", (state.signal !== null && !onPath(edge)) || (hovered !== null && !touched && !own));
    }
    for (const row of rows)
      row.wires?.forEach((wire) => wire.classList.toggle("on", row.name === hovered || row.name === state.signal));
  };

  const hover = (name, only = null) => {
    hovered = name;
    showEdges(only);
  };

  const step = (by) => {
    const shown = rows.filter((row) => row.shown);
    const place = shown.findIndex((row) => row.name === state.signal);
    const next = place < 0 ? (by > 0 ? 0 : shown.length - 1) : clamp(place + by, 0, shown.length - 1);
    select(shown[next].name, true);
    shown[next].button.focus({ preventScroll: true });
  };

  // ------------------------------------------------------------ the signal

  const link = (name) => {
    if (!byName.has(name)) return make("span", "", name);
    const button = make("button", "link-button", name);
    button.title = name;
    button.addEventListener("click", () => select(name, true));
    return button;
  };

  const rangeText = (row) => {
    if (!row.low) return "";
    const same = (values) => values.every((value) => value === values[0]);
    if (!same(row.low) || !same(row.high)) return "ranges differ by element";
    const [low, high] = [row.low[0], row.high[0]];
    const grid = same(row.step) && row.step[0] > 0 && row.step[0] !== null
      ? `, in steps of ${shortly(row.step[0])}` : "";
    if (low === high && low !== null) return `always ${shortly(low)}`;
    return `from ${low === null ? "−∞" : shortly(low)} to ${high === null ? "∞" : shortly(high)}${grid}`;
  };

  const edgeList = (title, found, other) => {
    if (!found.length) return [];
    const list = make("ul", "edges");
    for (const edge of found) {
      const weights = make("small", "", `${kindText(edge)} · ${weightsText(edge, 3)}`);
      const item = make("li", KINDS[edge.kind], link(edge[other]), weights);
      item.title = edgeText(edge);
      item.addEventListener("pointerenter", () => showEdges(edge));
      item.addEventListener("pointerleave", () => showEdges());
      list.append(item);
    }
    return [make("h4", "", title), list];
  };

  const showDetail = () => {
    const panel = $("detail");
    panel.replaceChildren();
    if (state.layer !== null) return showLayer(panel);
    const row = byName.get(state.signal);
    if (!row) {
      panel.append(make("p", "hint",
        "Choose a signal to see what it is made of, its weights and the line that makes it."));
      return undefined;
    }
    panel.append(make("h3", "", row.name));
    const held = [...row.held.keys()];
    const last = Math.max(...held);
    const places = row.name === OUTPUT ? "what the network gives"
      : row.kind === "folded" ? "folded into what reads it"
      : row.constant ? "constant"
      : `${row.kind}, made in layer ${row.layer}${last > row.layer ? `, carried to layer ${last}` : ""}`;
    const range = rangeText(row);
    panel.append(make("p", "where", [places, row.width > 1 ? `${row.width} elements` : "", range]
      .filter(Boolean).join(" · ")));
    const others = (row.names ?? []).filter((name) => name !== row.name);
    if (others.length) panel.append(make("p", "where", `also called ${others.join(", ")}`));
    if ([...row.held.values()].flat().some((channel) => channel.role === "distractor"))
      panel.append(make("p", "where", "a distractor: the program's output does not depend on it"));
    if (row.expression) panel.append(make("p", "formula", row.expression));
    if (row.values) {
      const now = make("div");
      now.id = "now";
      panel.append(make("h4", ""), now);
    }
    panel.append(
      ...edgeList("reads", edges.filter((edge) => edge.target === row.name), "source"),
      ...edgeList("is read by", edges.filter((edge) => edge.source === row.name), "target"),
    );
    if (row.held.size) panel.append(channelTable(row));
    showNow();
    return undefined;
  };

  /** The values of the selected signal at the current token, in full. */
  const showNow = () => {
    const panel = $("now");
    const row = byName.get(state.signal);
    if (!panel || !row?.values) return;
    panel.previousSibling.textContent = `at token ${state.token}`;
    panel.replaceChildren();
    valuesAt(row).forEach((value, element) => {
      const entry = make("span", row.width === 1 ? "one" : "");
      if (row.width > 1) entry.append(make("i", "", String(element)));
      const text = make("span", "", exactly(value));
      text.dataset.element = element;
      entry.append(text);
      panel.append(entry);
    });
  };

  const channelTable = (row) => {
    const table = make("table", "channels");
    for (const layer of [...row.held.keys()].sort((a, b) => a - b))
      for (const channel of row.held.get(layer).slice(0, 600)) {
        const terms = channel.units
          .map((unit, k) => `${shortly(channel.weights[k])}·unit ${unit}`).join(" + ");
        const line = make("tr", channel.role === "made" ? "" : "carried",
          make("td", "", `layer ${layer}`),
          make("td", "", row.width > 1 ? `[${channel.element}]` : ""),
          make("td", "", terms + (channel.offset ? ` + ${shortly(channel.offset)}` : "")),
          make("td", "", channel.role === "made" ? "" : channel.role));
        if (channel.memory.length)
          line.title = `goes on in ${channel.memory.length > 1 ? "memory entries" : "memory entry"} ${channel.memory.join(", ")}`;
        table.append(line);
      }
    const count = [...row.held.values()].reduce((sum, channels) => sum + channels.length, 0);
    return make("details", "", make("summary", "", plural(count, "channel")), make("div", "scroll", table));
  };

  const showLayer = (panel) => {
    const layer = state.layer;
    panel.append(make("h3", "", layer ? `layer ${layer}` : "input map"));
    panel.append(make("p", "where", `${plural(circuit.units[layer], "unit")}: ${circuit.hook}`));
    const table = make("table", "channels");
    for (const row of rows) {
      const channels = row.held.get(layer);
      if (!channels) continue;
      const carried = channels.every((channel) => channel.role !== "made");
      table.append(make("tr", carried ? "carried" : "",
        make("td", "", row.constant ? make("span", "", row.name) : link(row.name)),
        make("td", "", `${channels.length}`), make("td", "", unitsText(channels)),
        make("td", "", carried ? channels[0].role : "")));
    }
    panel.append(table);
  };

  // ------------------------------------------------------------ source and certificate

  const codeLines = new Map(); // "file:line" -> element
  const buildSource = () => {
    const panel = $("source");
    panel.append(make("h2", "", "Program"));
    const makers = new Map();
    for (const [name, places] of Object.entries(data.lines))
      for (const [file, line] of places) {
        const key = `${file}:${line}`;
        if (!makers.has(key)) makers.set(key, []);
        if (byName.has(name)) makers.get(key).push(name);
      }
    for (const excerpt of data.sources) {
      const common = Math.min(...excerpt.lines.filter((line) => line.trim())
        .map((line) => line.length - line.trimStart().length));
      const block = make("pre");
      excerpt.lines.forEach((text, offset) => {
        const line = excerpt.first + offset;
        const key = `${excerpt.file}:${line}`;
        const made = makers.get(key) ?? [];
        const element = make("div", made.length ? "code makes" : "code", make("i", "", String(line)),
          text.slice(common) || " ");
        element.dataset.line = key;
        // What is broken goes on behind where its line begins.
        const behind = text.slice(common).search(/\S|$/) + 4;
        element.style.paddingLeft = `calc(42px + ${behind}ch)`;
        element.style.textIndent = `-${behind}ch`;
        if (made.length) {
          element.title = `makes ${made.join(", ")}`;
          element.addEventListener("click", () =>
            select(made[(made.indexOf(state.signal) + 1) % made.length], true));
        }
        codeLines.set(key, element);
        block.append(element);
      });
      panel.append(make("h3", "", excerpt.file), block);
    }
    if (!data.sources.length) {
      const block = make("pre");
      for (const row of rows) {
        if (!row.expression || row.constant) continue;
        const element = make("div", "code makes", ` ${row.name} = ${row.expression}`);
        element.dataset.line = row.name;
        element.addEventListener("click", () => select(row.name, true));
        codeLines.set(row.name, element);
        block.append(element);
      }
      panel.append(make("h3", "", "its file can't be read; the signals as they are computed"), block);
    }
  };

  const linesOf = (name) =>
    data.sources.length ? (data.lines[name] ?? []).map((place) => place.join(":")) : [name];

  const showCode = () => {
    const related = new Set([...path.above, ...path.below].flatMap(linesOf));
    const own = state.signal === null ? [] : linesOf(state.signal);
    for (const [key, element] of codeLines) {
      element.classList.toggle("current", own.includes(key));
      element.classList.toggle("related", related.has(key) && !own.includes(key));
    }
    const first = own.map((key) => codeLines.get(key)).find(Boolean);
    if (first) {
      const block = first.parentElement;
      const place = first.offsetTop - block.offsetTop;
      if (place < block.scrollTop || place > block.scrollTop + block.clientHeight - 20)
        block.scrollTop = place - block.clientHeight / 3;
    }
  };

  const buildCertificate = () => {
    const panel = $("certificate");
    const list = make("dl");
    for (const line of data.summary) {
      const [, name, text] = line.match(/^(\S.*?)\s{2,}(.*)$/) ?? [null, "", line];
      list.append(make("dt", "", name), make("dd", name === "exact" ? (/^(yes|in )/.test(text) ? "good" : "bad") : "", text));
    }
    list.append(make("dt", "", "decoded"), make("dd", data.check.equal ? "good" : "bad", data.check.text));
    panel.append(make("h2", "", "Model and certificate"), list);
    if (data.documentation) panel.append(make("p", "", data.documentation));
  };

  const buildPanels = () => {
    $("panels").hidden = !data.panels.length;
    const line = (tag, cells) => make("tr", "", ...cells.map((cell) => make(tag, "", String(cell))));
    for (const panel of data.panels) {
      const table = make("table", "", line("th", panel.columns), ...panel.rows.map((row) => line("td", row)));
      $("panels").append(make("h2", "", panel.title), make("div", "scroll", table));
    }
  };

  const buildTop = () => {
    $("title").textContent = data.title;
    const shown = rows.filter((row) => !row.constant && row.name !== OUTPUT);
    const exact = data.summary.find((line) => line.startsWith("exact")) ?? "";
    const [, verdict] = exact.match(/^exact\s+(yes|in \w+)/) ?? [];
    const good = verdict !== undefined;
    const facts = [plural(shown.length, "signal"), plural(layers - 1, "layer"),
      plural(circuit.channels.filter((channel) => channel.role !== "constant").length, "channel"),
      circuit.dtype];
    $("facts").append(...facts.map((text) => make("span", "", text)),
      make("span", good ? "good" : "bad", !good ? "not certified exact" : verdict === "yes" ? "exact" : `exact ${verdict}`));
    for (let layer = 0; layer <= layers; layer++) {
      const button = make("button");
      button.dataset.place = layer;
      $("layers").append(button);
      if (layer === layers) {
        button.disabled = true;
        continue;
      }
      button.dataset.layer = layer;
      button.setAttribute("aria-label", layer ? `layer ${layer}` : "input map");
      button.addEventListener("pointermove", (event) => tell(event, layerText(layer)));
      button.addEventListener("pointerleave", hush);
      button.addEventListener("click", () => {
        state.layer = state.layer === layer ? null : layer;
        showMarks();
        showDetail();
      });
    }
  };
  const placeLayers = () => {
    const every = [1, 2, 5, 10].find((step) => step * column >= 17) ?? 20;
    for (const button of $("layers").children) {
      const layer = Number(button.dataset.place);
      const crowded = layers - layer < every && every > 1;
      button.textContent = layer === layers ? "out" : layer === 0 ? "in"
        : layer % every || crowded ? "" : String(layer);
      button.style.left = `${columnAt(layer) - column / 2}px`;
      button.style.width = `${column}px`;
    }
  };
  const layerText = (layer) => {
    const counts = {};
    for (const channel of circuit.channels)
      if (channel.layer === layer) counts[channel.role] = (counts[channel.role] ?? 0) + 1;
    const parts = Object.entries(counts).map(([role, count]) => `${count} ${role}`).join(", ");
    return `${layer ? `layer ${layer}` : "input map"}: ${plural(circuit.units[layer], "unit")}\n` +
      `channels: ${parts || "none"}`;
  };

  const showLegend = () => {
    const legend = $("legend");
    legend.replaceChildren();
    const used = new Set(edges.map((edge) => edge.kind));
    for (const [kind, className] of Object.entries(KINDS))
      if (used.has(kind)) legend.append(make("span", className, make("span", "stroke"), kind));
    legend.append(make("span", "", "negative", make("span", "scale"),
      "positive, by signal"));
    const constants = rows.filter((row) => row.constant);
    if (!constants.length) return;
    const text = constants.map((row) => {
      const count = [...row.held.values()].reduce((sum, channels) => sum + channels.length, 0);
      return `${row.name} (${plural(count, "channel")})`;
    }).join(", ");
    const button = make("button", "link-button", state.constants ? "hide" : "show");
    button.id = "constants";
    button.addEventListener("click", () => {
      state.constants = !state.constants;
      layout();
      showLegend();
    });
    legend.append(make("span", "end", `constants: ${text} `, button));
  };

  // ------------------------------------------------------------ search, keys, tips, address

  const matches = () => {
    const wanted = state.query.toLowerCase();
    if (!wanted) return [];
    return rows.filter((row) =>
      [row.name, ...(row.names ?? [])].some((name) => name.toLowerCase().includes(wanted)));
  };
  const search = (text) => {
    state.query = text.trim();
    const count = matches().length;
    $("matches").textContent = state.query ? (count ? plural(count, "signal") : "none found") : "";
    showMarks();
    if (count) reveal(matches().find((row) => row.shown) ?? rows[0]);
  };

  const tell = (event, text) => {
    const tip = $("tip");
    tip.textContent = text;
    tip.hidden = false;
    const [width, height] = [tip.offsetWidth, tip.offsetHeight];
    tip.style.left = `${clamp(event.clientX + 14, 4, window.innerWidth - width - 6)}px`;
    const under = event.clientY + 16;
    tip.style.top = `${under + height > window.innerHeight - 6 ? event.clientY - height - 10 : under}px`;
  };
  const hush = () => ($("tip").hidden = true);

  /** The address names what is shown, so that it can be passed on. */
  const remember = () => {
    if (machine?.playing()) return; // so often browsers do not allow it
    const parts = new URLSearchParams();
    if (state.signal !== null) parts.set("signal", state.signal);
    parts.set("token", state.moment);
    if (data.sequences > 1) parts.set("sequence", state.sequence);
    try {
      history.replaceState(null, "", `#${parts}`);
    } catch {
      // A page inside another may not change its address.
    }
  };
  const recall = () => {
    const parts = new URLSearchParams(location.hash.slice(1));
    const whole = (name) => Number.parseInt(parts.get(name) ?? "0", 10) || 0;
    const start = machine && !parts.has("token") ? machine.first : whole("token");
    state.moment = clamp(start, 0, lastMoment);
    state.token = Math.min(state.moment, data.tokens - 1);
    state.sequence = clamp(whole("sequence"), 0, data.sequences - 1);
    $("sequence").value = state.sequence;
    state.signal = byName.has(parts.get("signal")) ? parts.get("signal") : null;
    if (["dark", "light"].includes(parts.get("theme"))) paintTheme(parts.get("theme"));
  };

  const paintTheme = (theme) => {
    document.documentElement.dataset.theme = theme;
    readColours();
    repaint();
  };

  const KEYS = {
    ArrowLeft: () => goTo(state.moment - 1), ArrowRight: () => goTo(state.moment + 1),
    Home: () => goTo(0), End: () => goTo(lastMoment),
    ArrowUp: () => step(-1), ArrowDown: () => step(1),
    "[": () => turnTo(state.sequence - 1), "]": () => turnTo(state.sequence + 1),
    "/": () => $("search").focus(), Escape: () => select(null),
    "?": () => $("keys").showModal(),
    ...(data.machine && { " ": () => machine.play() }),
  };

  const listen = () => {
    $("token").addEventListener("input", () => goTo(Number($("token").value)));
    $("before").addEventListener("click", () => goTo(state.moment - 1));
    $("after").addEventListener("click", () => goTo(state.moment + 1));
    $("sequence").addEventListener("change", () => turnTo(Number($("sequence").value)));
    $("axis").addEventListener("pointerdown", (event) => {
      const left = $("axis").getBoundingClientRect().left;
      goTo(seen.first + Math.floor((event.clientX - left) / seen.cell));
    });
    $("search").addEventListener("input", () => search($("search").value));
    $("search").addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        $("search").value = "";
        search("");
        $("search").blur();
      } else if (event.key === "Enter") {
        const found = matches();
        if (found.length) select(found[(found.indexOf(byName.get(state.signal)) + 1) % found.length].name, true);
      }
      event.stopPropagation();
    });
    $("help").addEventListener("click", () => $("keys").showModal());
    $("theme").addEventListener("click", () =>
      paintTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || $("keys").open) return;
      if (event.target === $("sequence") || event.target === $("speed")) return;
      if (event.key === " " && event.target.tagName === "BUTTON") return;
      const act = KEYS[event.key];
      if (!act) return;
      event.preventDefault();
      act();
    });
    $("board").addEventListener("scroll", paintSeen, { passive: true });
    window.addEventListener("resize", layout);
    window.addEventListener("hashchange", () => {
      recall();
      showTokens();
      select(state.signal, true);
    });
    const dark = window.matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", () => paintTheme(dark.matches ? "dark" : "light"));
    return dark.matches ? "dark" : "light";
  };

  $("token").max = data.tokens - 1;
  for (let sequence = 0; sequence < data.sequences; sequence++) {
    const option = make("option", "", `sequence ${sequence}`);
    option.value = sequence;
    $("sequence").append(option);
  }
  $("sequence").hidden = data.sequences === 1;
  buildTop();
  buildRows();
  buildSource();
  buildCertificate();
  buildPanels();
  showLegend();
  paintTheme(listen());
  recall();
  layout();
  select(state.signal, true);
})();
