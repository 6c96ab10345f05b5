// The journal as a score: a line for the people and one for each agent, entries from left to right. Drawn, because there may be
// ten thousand notes; who cannot see it has the rows and the slider beside it, which say all of it.

import { el } from '../dom.js'
import { voice } from '../fold.js'
import { agentOf } from '../words.js'

const LINE_PX = 22
const TOP_PX = 12
/** Names stand left of the lines; half a thumb of the slider is left free at both ends. */
const GUTTER_PX = 76
const INSET_PX = 9
const LINES_MAX = 8

export class Score {
  constructor(entries, { choose }) {
    this.entries = entries
    this.visible = []
    this.canvas = el('canvas', { 'aria-hidden': 'true' })
    this.cursor = el('span.cursor', { 'aria-hidden': 'true' })
    this.node = el('div.score', {}, this.canvas, this.cursor)
    this.position = 0
    const point = event => {
      const box = this.canvas.getBoundingClientRect()
      const part = (event.clientX - box.left - GUTTER_PX - INSET_PX) / (box.width - GUTTER_PX - 2 * INSET_PX)
      const position = Math.round(part * (this.visible.length - 1))
      choose(this.visible[Math.max(0, Math.min(this.visible.length - 1, position))])
    }
    this.canvas.addEventListener('pointerdown', event => {
      if (!this.visible.length) return
      this.canvas.setPointerCapture(event.pointerId)
      point(event)
    })
    this.canvas.addEventListener('pointermove', event => { if (event.buttons && this.visible.length) point(event) })
    this.redraw = () => this.draw()
    addEventListener('repaint', this.redraw)
    this.media = matchMedia('(prefers-color-scheme: dark)')
    this.media.addEventListener('change', this.redraw)
    this.resized = new ResizeObserver(this.redraw)
    this.resized.observe(this.node)
  }

  close() {
    removeEventListener('repaint', this.redraw)
    this.media.removeEventListener('change', this.redraw)
    this.resized.disconnect()
  }

  set(visible) {
    this.visible = visible
    this.draw()
  }

  x(position, width) {
    const room = width - GUTTER_PX - 2 * INSET_PX
    return GUTTER_PX + INSET_PX + (this.visible.length < 2 ? 0 : (position / (this.visible.length - 1)) * room)
  }

  go(position) {
    this.position = position
    this.cursor.style.left = `${this.x(position, this.node.clientWidth)}px`
  }

  draw() {
    if (!this.entries.all.length || !this.node.clientWidth) return
    const names = ['people', ...this.entries.whole.agents.keys()].slice(0, LINES_MAX)
    const [width, height] = [this.node.clientWidth, TOP_PX * 2 + (names.length - 1) * LINE_PX]
    const scale = devicePixelRatio || 1
    this.canvas.width = width * scale
    this.canvas.height = height * scale
    this.canvas.style.height = `${height}px`
    const pen = this.canvas.getContext('2d')
    pen.scale(scale, scale)
    const style = getComputedStyle(this.node)
    const ink = name => style.getPropertyValue(name).trim() || '#888'
    // Custom properties say `light-dark(…)`; what they come to is asked of an element.
    const probe = el('span')
    this.node.append(probe)
    const colour = name => { probe.style.color = `var(${name})`; return getComputedStyle(probe).color }
    const lines = new Map(names.map((name, at) => [name, TOP_PX + at * LINE_PX]))
    const colours = new Map(names.map((name, at) => [name, at ? colour(`--voice-${voice(this.entries.whole, name) % 8}`) : colour('--ink')]))
    pen.font = `12px ${ink('--sans')}`
    pen.textBaseline = 'middle'
    for (const [name, y] of lines) {
      pen.fillStyle = colours.get(name)
      pen.fillText(name.length > 10 ? `${name.slice(0, 9)}…` : name, 0, y, GUTTER_PX - 6)
      pen.fillStyle = colour('--rule')
      pen.fillRect(GUTTER_PX, y - 0.5, width - GUTTER_PX, 1)
    }
    this.turns(pen, lines, colours, width)
    this.notes(pen, lines, colours, width, colour('--bad'))
    probe.remove()
    this.go(this.position)
  }

  /** A bar from where a turn begins to where it ends. */
  turns(pen, lines, colours, width) {
    const began = new Map()
    const places = this.places()
    const bar = (turn, until) => {
      const agent = agentOf({ turn })
      const y = lines.get(agent)
      if (y === undefined) return
      pen.globalAlpha = 0.28
      pen.fillStyle = colours.get(agent)
      pen.beginPath()
      pen.roundRect(began.get(turn) - 2, y - 6, Math.max(4, until - began.get(turn) + 4), 12, 6)
      pen.fill()
      pen.globalAlpha = 1
    }
    this.entries.all.forEach((entry, at) => {
      if (entry.kind === 'turn-started') began.set(entry.turn, this.x(places(at), width))
      if (entry.kind === 'turn-ended' && began.has(entry.turn)) {
        bar(entry.turn, this.x(places(at), width))
        began.delete(entry.turn)
      }
    })
    for (const turn of began.keys()) bar(turn, width - INSET_PX)
  }

  /** Where an entry stands among those to be seen; asked for in order. */
  places() {
    let position = 0
    return at => {
      while (position < this.visible.length - 1 && this.visible[position + 1] <= at) position += 1
      return position
    }
  }

  notes(pen, lines, colours, width, bad) {
    this.visible.forEach((at, position) => {
      const entry = this.entries.all[at]
      const isOfPeople = entry.kind === 'message-received' || (entry.kind === 'answered' && entry.by) || (entry.kind === 'slot-committed' && !entry.by?.agent)
      const name = isOfPeople ? 'people' : agentOf(entry)
      const y = lines.get(name)
      if (y === undefined) return
      const x = this.x(position, width)
      pen.fillStyle = colours.get(name)
      pen.beginPath()
      switch (entry.kind) {
        case 'spoke': pen.rect(x - 0.75, y - 5, 1.5, 10); break
        case 'message-received':
        case 'asked':
        case 'answered':
        case 'message-sent': pen.arc(x, y, 4, 0, 7); break
        case 'slot-committed': pen.moveTo(x, y - 7); pen.lineTo(x + 6, y); pen.lineTo(x, y + 7); pen.lineTo(x - 6, y); break
        case 'interrupt-requested':
        case 'agent-suspended':
        case 'retried':
          if (entry.reason === 'answered') return
          pen.fillStyle = bad; pen.rect(x - 3, y - 8, 6, 16); break
        case 'turn-ended':
          if (entry.outcome === 'completed') return
          pen.fillStyle = bad
          pen.rect(x - 2, y - 8, 4, 16)
          break
        default: return
      }
      pen.fill()
    })
  }
}
