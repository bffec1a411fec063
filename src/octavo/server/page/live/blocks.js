// The map of the KV cache: a cell a block, in the pool's order.
//
// What a block is shows in its form, not in its colour alone: free is an empty frame, cached is hatched, used is filled,
// shared is filled with a mark in it.

import { palette } from "./colours.js";

export const FREE = -1;
export const CACHED = -2;
const SIZES = [16, 14, 12, 11, 10, 9, 8, 7, 6, 5]; // px of a cell, the largest first
const GAP = 2;
const TALLEST = 264; // px of the whole map, before cells stand for several blocks each

/** The runs of /octavo/state as one { owner, tables } a block. */
export function expand(runs) {
  return runs.flatMap(([owner, tables, length]) => new Array(length).fill({ owner, tables }));
}

/** How many blocks are of each kind. */
export function tally(runs) {
  const sums = { used: 0, shared: 0, cached: 0, free: 0, total: 0 };
  for (const [owner, tables, length] of runs) {
    sums[kind({ owner, tables })] += length;
    sums.total += length;
  }
  return sums;
}

export function kind({ owner, tables }) {
  if (owner === FREE) return "free";
  if (owner === CACHED) return "cached";
  return tables > 1 ? "shared" : "used";
}

/** Where cells lie: { size, pitch, columns, rows, cells, each } for `count` blocks in `width` px; each: blocks of a cell. */
export function layout(count, width) {
  for (let each = 1; ; each *= 2) {
    const cells = Math.ceil(count / each);
    for (const size of SIZES) {
      const columns = Math.max(1, Math.floor((width + GAP) / (size + GAP)));
      const rows = Math.ceil(cells / columns);
      const pitch = (width + GAP) / columns; // a little more than size + GAP, so that rows end where the width does
      if (rows * pitch <= TALLEST) return { size: Math.floor(pitch - GAP), pitch, columns, rows, each, cells };
    }
  }
}

const RANK = ["free", "cached", "used", "shared"];
const more = (a, b) => RANK.indexOf(kind(a)) - RANK.indexOf(kind(b)) || a.tables - b.tables;

/** canvas: draws there. describe(block, { index, each }): the tooltip's text. tip: its element. */
export class BlockMap {
  constructor(canvas, tip, describe) {
    Object.assign(this, { canvas, tip, describe });
    this.blocks = [];
    this.colours = [];
    this.only = null; // the index of the sequence to bring out
    this.cursor = null; // the cell that the tooltip is about
    this.theme = palette();
    document.addEventListener("themechange", () => {
      this.theme = palette();
      this.draw();
    });
    new ResizeObserver(() => this.draw()).observe(canvas.parentElement);
    this.listen();
  }

  listen() {
    this.canvas.addEventListener("pointermove", (event) => this.point(this.cellAt(event)));
    this.canvas.addEventListener("pointerdown", (event) => this.point(this.cellAt(event)));
    this.canvas.addEventListener("pointerleave", () => this.point(null));
    this.canvas.addEventListener("blur", () => this.point(null));
    this.canvas.addEventListener("focus", () => this.canvas.matches(":focus-visible") && this.point(this.cursor ?? 0));
    this.canvas.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.grid?.columns, ArrowDown: this.grid?.columns };
    if (event.key === "Escape") this.point(null);
    else if (event.key in steps && this.grid) {
      event.preventDefault();
      const next = (this.cursor ?? 0) + steps[event.key];
      if (next >= 0 && next < this.grid.cells) this.point(next);
    }
  }

  /** runs: as in /octavo/state. colours: a colour's number for each sequence. */
  update(runs, colours) {
    this.blocks = expand(runs);
    this.colours = colours;
    this.draw();
    if (this.cursor !== null) this.point(this.cursor < (this.grid?.cells ?? 0) ? this.cursor : null);
  }

  get each() {
    return this.grid?.each ?? 1;
  }

  highlight(index) {
    if (this.only === index) return;
    this.only = index;
    this.draw();
  }

  draw() {
    const width = this.canvas.parentElement.clientWidth;
    if (!width || !this.blocks.length) return;
    const grid = (this.grid = layout(this.blocks.length, width));
    const height = Math.ceil(grid.rows * grid.pitch) - GAP;
    const scale = devicePixelRatio || 1;
    this.canvas.style.height = `${height}px`;
    this.canvas.width = Math.round(width * scale);
    this.canvas.height = Math.round(height * scale);
    const paint = this.canvas.getContext("2d");
    paint.scale(scale, scale);
    for (let cell = 0; cell < grid.cells; cell += 1) this.drawCell(paint, cell);
  }

  /** The block that a cell stands for: of several, the one there is most to say about. */
  block(cell) {
    const { each } = this.grid;
    return this.blocks.slice(cell * each, (cell + 1) * each).reduce((best, other) => (more(other, best) > 0 ? other : best));
  }

  corner(cell) {
    const { pitch, columns } = this.grid;
    return [Math.round((cell % columns) * pitch), Math.round(Math.floor(cell / columns) * pitch)];
  }

  drawCell(paint, cell) {
    const block = this.block(cell);
    const [x, y] = this.corner(cell);
    const { size } = this.grid;
    const held = block.owner >= 0;
    paint.globalAlpha = this.only !== null && block.owner !== this.only ? 0.22 : 1;
    if (held) fill(paint, x, y, size, this.theme.sequences[this.colours[block.owner]]);
    else frame(paint, x, y, size, block.owner === CACHED ? this.theme.edge : this.theme.line);
    if (block.owner === CACHED) hatch(paint, x, y, size, this.theme.edge);
    if (held && block.tables > 1) mark(paint, x, y, size, block.tables, this.theme);
    paint.globalAlpha = 1;
    if (cell === this.cursor) frame(paint, x, y, size, this.theme.ink, 2);
  }

  cellAt({ offsetX, offsetY }) {
    if (!this.grid) return null;
    const { pitch, columns, cells } = this.grid;
    const column = Math.floor(offsetX / pitch);
    const cell = Math.floor(offsetY / pitch) * columns + column;
    return column < columns && cell >= 0 && cell < cells ? cell : null;
  }

  point(cell) {
    const moved = this.cursor !== cell;
    this.cursor = cell;
    if (moved) this.draw();
    this.tip.hidden = cell === null || !this.grid;
    if (this.tip.hidden) return;
    const { size, each } = this.grid;
    const [x, y] = this.corner(cell);
    const text = this.describe(this.block(cell), { index: cell * each, each });
    if (this.tip.textContent !== text) this.tip.textContent = text;
    const most = this.canvas.clientWidth - this.tip.offsetWidth;
    this.tip.style.left = `${Math.max(0, Math.min(most, x - 12))}px`;
    this.tip.style.top = `${y + size + 6}px`;
  }
}

function fill(paint, x, y, size, colour) {
  paint.fillStyle = colour;
  paint.beginPath();
  paint.roundRect(x, y, size, size, size / 6);
  paint.fill();
}

function frame(paint, x, y, size, colour, width = 1) {
  paint.strokeStyle = colour;
  paint.lineWidth = width;
  paint.beginPath();
  paint.roundRect(x + width / 2, y + width / 2, size - width, size - width, size / 6);
  paint.stroke();
}

function hatch(paint, x, y, size, colour) {
  paint.strokeStyle = colour;
  paint.lineWidth = 1;
  paint.beginPath();
  for (const part of size < 8 ? [1] : [0.6, 1, 1.4]) {
    const along = size * part;
    paint.moveTo(x + Math.max(0, along - size) + 0.5, y + Math.min(size, along) - 0.5);
    paint.lineTo(x + Math.min(size, along) - 0.5, y + Math.max(0, along - size) + 0.5);
  }
  paint.stroke();
}

/** The number of holders where there is room for it, else a dot. */
function mark(paint, x, y, size, tables, { paper }) {
  paint.fillStyle = paper;
  if (size >= 11 && tables < 10) {
    paint.font = `700 ${size - 3}px ui-sans-serif, system-ui, sans-serif`;
    paint.textAlign = "center";
    paint.textBaseline = "middle";
    paint.fillText(tables, x + size / 2, y + size / 2 + 0.5);
  } else {
    const dot = Math.max(2, Math.round(size / 2.5));
    paint.fillRect(x + (size - dot) / 2, y + (size - dot) / 2, dot, dot);
  }
}
