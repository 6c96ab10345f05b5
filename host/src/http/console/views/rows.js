// The journal's entries as rows. Only those in sight are there, however many there are.

import { bdi, el } from '../dom.js'
import { seq } from '../fold.js'
import { agentOf, clockMs, detail } from '../words.js'
import { voiceClass } from './conversation.js'

const ROW_PX = 30
const SPARE = 12

export class Rows {
  constructor(entries, { choose, key }) {
    this.entries = entries
    this.choose = choose
    this.visible = []
    this.current = -1
    this.shown = new Map()
    this.inner = el('div.rows-inner', { role: 'presentation' })
    this.node = el('div.rows', {
      role: 'listbox', tabindex: 0, 'aria-label': 'Entries of the journal',
      on: { scroll: () => this.draw(), keydown: key },
    }, this.inner)
    new ResizeObserver(() => this.draw()).observe(this.node)
  }

  /** Other entries are to be seen, or more. */
  set(visible) {
    this.visible = visible
    for (const row of this.shown.values()) row.remove()
    this.shown.clear()
    this.inner.style.height = `${visible.length * ROW_PX}px`
    this.draw()
  }

  /** The row at a position is the current one, and in sight. */
  go(position) {
    this.shown.get(this.current)?.setAttribute('aria-selected', 'false')
    this.current = position
    const top = position * ROW_PX
    const { scrollTop, clientHeight } = this.node
    // A few rows ahead stay in sight.
    const ahead = Math.min(3 * ROW_PX, clientHeight / 3)
    if (top < scrollTop + ahead) this.node.scrollTop = Math.max(0, top - ahead)
    else if (top + ROW_PX > scrollTop + clientHeight - ahead) this.node.scrollTop = top + ROW_PX - clientHeight + ahead
    this.draw()
    const row = this.shown.get(position)
    row?.setAttribute('aria-selected', 'true')
    if (row) this.node.setAttribute('aria-activedescendant', row.id)
  }

  draw() {
    const first = Math.max(0, Math.floor(this.node.scrollTop / ROW_PX) - SPARE)
    const last = Math.min(this.visible.length, Math.ceil((this.node.scrollTop + this.node.clientHeight) / ROW_PX) + SPARE)
    for (const [position, row] of this.shown) {
      if (position >= first && position < last) continue
      row.remove()
      this.shown.delete(position)
    }
    for (let position = first; position < last; position += 1) {
      if (this.shown.has(position)) continue
      const row = this.row(position)
      this.shown.set(position, row)
      this.inner.append(row)
    }
  }

  row(position) {
    const at = this.visible[position]
    const entry = this.entries.all[at]
    const agent = agentOf(entry)
    const voices = this.entries.whole
    const lanes = el('span.lanes', { 'aria-hidden': 'true' }, ...this.entries.lanes[at].map(lane =>
      el(lane ? `span.lane.${lane.mark}.${voiceClass(voices, agentOf({ turn: lane.turn }))}` : 'span.lane')))
    const number = seq(entry.offset)
    const node = el('div.row-entry', {
      role: 'option', id: `entry-${number}`, 'aria-selected': String(position === this.current),
      'aria-setsize': this.visible.length, 'aria-posinset': position + 1,
      'data-kind': entry.kind, on: { click: () => this.choose(at) },
    },
    el('span.seq', {}, String(number)), el('span.at', {}, clockMs(entry.time)), lanes,
    el('span.kind', {}, entry.kind),
    el(agent ? `span.agent.${voiceClass(voices, agent)}` : 'span.agent', {}, agent ?? entry.author ?? ''),
    el('span.detail', {}, bdi(detail(entry))))
    node.style.top = `${position * ROW_PX}px`
    return node
  }
}
