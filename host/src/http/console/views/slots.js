// The kernel: each slot with its state, and the document of the one that is chosen.

import { say } from '../api.js'
import { bdi, button, el, setText, show } from '../dom.js'
import { agentOf, clockMs, size, writer } from '../words.js'

/** A list of slots. `content(slot)` answers its text, now or later, or throws. */
export class Slots {
  constructor({ content, empty = 'No slots yet.' }) {
    this.content = content
    this.list = el('ul.slots')
    this.none = el('p.hint', {}, empty)
    this.node = el('div', {}, this.none, this.list)
    this.rows = new Map()
    this.open = null
  }

  /** Slots as the API has them: `{slot, version, state, locked_by, written_at, by, bytes}`. */
  render(slots) {
    show(this.none, slots.length === 0)
    const names = new Set(slots.map(slot => slot.slot))
    for (const [name, row] of this.rows) {
      if (names.has(name)) continue
      row.node.remove()
      this.rows.delete(name)
    }
    slots.forEach((slot, at) => {
      let row = this.rows.get(slot.slot)
      if (!row) {
        row = this.row(slot.slot)
        this.rows.set(slot.slot, row)
      }
      if (this.list.children[at] !== row.node) this.list.insertBefore(row.node, this.list.children[at] ?? null)
      this.draw(row, slot)
    })
    if (this.open === null && slots.length === 1 && slots[0].version !== null) this.choose(slots[0].slot)
  }

  row(name) {
    const standing = el('span.badge')
    const about = el('span.hint')
    const text = el('div.document', { hidden: true, dir: 'auto', tabindex: 0, role: 'region', 'aria-label': `Document of ${name}` })
    const head = button('', () => this.choose(this.open === name ? '' : name), { class: 'slot-head', 'aria-expanded': 'false' })
    head.append(bdi(name, { class: 'name' }), standing, about)
    return { node: el('li.slot', {}, head, text), head, standing, about, text, name, shown: null, slot: null }
  }

  draw(row, slot) {
    row.slot = slot
    const isLocked = slot.state === 'locked'
    const locker = isLocked ? agentOf({ turn: slot.locked_by }) : null
    setText(row.standing, isLocked ? `locked by ${locker}` : 'idle')
    row.standing.classList.toggle('locked', isLocked)
    row.head.title = isLocked ? slot.locked_by : ''
    setText(row.about, slot.version === null ? 'no document yet'
      : `version ${slot.version} · ${size(slot.bytes)} · by ${writer(slot.by)}, ${clockMs(slot.written_at).slice(0, 8)}`)
    show(row.text, this.open === row.name && slot.version !== null)
    if (this.open === row.name) this.load(row)
  }

  choose(name) {
    this.open = name
    for (const row of this.rows.values()) {
      const isOpen = row.name === name
      row.head.setAttribute('aria-expanded', String(isOpen))
      show(row.text, isOpen && row.slot.version !== null)
      if (isOpen) this.load(row)
    }
  }

  async load(row) {
    const { slot } = row
    const wanted = `${slot.version}`
    if (row.shown === wanted) return
    row.shown = wanted
    if (slot.version === null) return setText(row.text, '')
    try {
      const text = await this.content(slot)
      if (row.shown === wanted) setText(row.text, text ?? '')
    } catch (error) {
      if (row.shown !== wanted) return
      row.shown = null
      setText(row.text, say(error))
    }
  }
}
