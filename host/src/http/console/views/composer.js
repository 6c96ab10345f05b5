// Where people write, what they sent that is not there yet, and who is at work, with a way to stop them.

import { say } from '../api.js'
import { alert, bdi, button, el, setText, show } from '../dom.js'
import { running } from '../fold.js'
import * as who from '../credentials.js'
import { voiceClass } from './conversation.js'

/** Letters on their way, at the end of the conversation. */
export class Letters {
  constructor(outbox, edit) {
    this.outbox = outbox
    this.edit = edit
    this.list = el('ol.items.letters')
  }

  render() {
    const letters = this.outbox.shown()
    this.list.replaceChildren(...letters.map(letter => {
      const isFailed = letter.standing === 'failed'
      const standing = isFailed ? 'not sent' : letter.note ? 'not sent yet' : 'sending'
      return el(isFailed ? 'li.item.message.own.failed' : 'li.item.message.own.pending', {},
        el('div.who', {}, el('span.name', {}, who.author() ?? 'you'), el('span.fate', {}, standing)),
        el('div.text.folded', { dir: 'auto' }, letter.text),
        letter.note ? el('p.end.failed', {}, letter.note) : null,
        isFailed || letter.note
          ? el('div.row', {},
            isFailed ? button('Try again', () => this.outbox.again(letter), { class: 'quiet' }) : null,
            button('Take back', () => { this.outbox.drop(letter); this.edit(letter.text) }, { class: 'quiet' }))
          : null)
    }))
  }
}

export class Composer {
  constructor(session, outbox, { onSend }) {
    this.session = session
    this.outbox = outbox
    this.box = el('textarea', {
      id: 'message', rows: 1, placeholder: 'Write a message', 'aria-describedby': 'message-hint', maxlength: 1_000_000,
      on: { input: () => this.typed(), keydown: event => this.key(event) },
    })
    this.box.value = outbox.draft
    this.to = el('select', { id: 'to' })
    this.toField = el('span.to', { hidden: true }, el('label', { for: 'to' }, 'to'), this.to)
    this.sendButton = el('button.primary', { type: 'submit' }, 'Send')
    this.refusal = el('p.hint.refusal', { hidden: true })
    this.onSend = onSend
    this.node = el('form.composer', { 'aria-label': 'Write', on: { submit: event => { event.preventDefault(); this.send() } } },
      el('label.unseen', { for: 'message' }, 'Message'),
      this.box,
      el('div.row', {}, this.toField,
        el('span.hint', { id: 'message-hint' }, 'Enter sends, Shift+Enter begins a line'), this.sendButton),
      this.refusal)
    requestAnimationFrame(() => this.grow())
  }

  typed() {
    this.outbox.draft = this.box.value
    this.grow()
  }

  /** As high as its text, up to a third of the window. */
  grow() {
    this.box.style.height = 'auto'
    this.box.style.height = `${Math.min(this.box.scrollHeight + 2, innerHeight / 3)}px`
  }

  key(event) {
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return
    event.preventDefault()
    this.send()
  }

  send() {
    const text = this.box.value
    if (!text.trim() || this.sendButton.disabled) return
    this.outbox.send(text, this.to.value || null)
    this.box.value = ''
    this.typed()
    this.onSend()
  }

  /** Text that comes back is put before what was typed since. */
  edit(text) {
    this.box.value = this.box.value ? `${text}\n\n${this.box.value}` : text
    this.typed()
    this.box.focus()
  }

  refuse(words) {
    this.sendButton.disabled = Boolean(words)
    show(this.refusal, Boolean(words))
    setText(this.refusal, words ?? '')
  }

  participants(state) {
    const names = [...state.agents.values()].filter(agent => agent.present).map(agent => agent.agent)
    const key = names.join(' ')
    if (this.names === key) return
    this.names = key
    show(this.toField, names.length > 1)
    const options = names.map(name => el('option', { value: name === state.entry ? '' : name }, name))
    this.to.replaceChildren(...options)
    this.to.value = ''
  }
}

/** One chip for each agent, always there, so that nothing moves when one begins. */
export class AtWork {
  constructor(session) {
    this.session = session
    /** Where the keyboard goes on when a button goes away under it. */
    this.onLost = () => {}
    this.node = el('ul.at-work', { 'aria-label': 'Agents' })
    this.chips = new Map()
  }

  render(state) {
    for (const agent of state.agents.values()) {
      let chip = this.chips.get(agent.agent)
      if (!agent.present) {
        chip?.node.remove()
        this.chips.delete(agent.agent)
        continue
      }
      if (!chip) {
        chip = this.chip(agent.agent, state)
        this.chips.set(agent.agent, chip)
        this.node.append(chip.node)
      }
      this.draw(chip, agent, state)
    }
  }

  chip(agent, state) {
    const standing = el('span.standing')
    const act = button('', () => this.act(agent), { class: 'quiet' })
    const node = el(`li.chip.${voiceClass(state, agent)}`, {}, el('span.dot', { 'aria-hidden': 'true' }), bdi(agent, { class: 'name' }), standing, act)
    return { node, standing, button: act, agent }
  }

  draw(chip, agent, state) {
    const turn = agent.turn ? state.turns.get(agent.turn) : null
    const isRunning = Boolean(turn && !turn.outcome)
    let words = 'idle'
    if (isRunning) words = turn.by ? 'stopping' : turn.question !== null ? 'waiting for an answer' : turn.speaker ? `${turn.speaker} speaks` : turn.spoke ? 'speaking' : 'thinking'
    else if (agent.suspended) words = agent.suspended.until_ready ? 'waiting' : 'suspended'
    setText(chip.standing, words)
    chip.node.title = agent.suspended && !isRunning ? agent.suspended.reason : ''
    chip.node.classList.toggle('running', isRunning)
    chip.node.classList.toggle('suspended', Boolean(agent.suspended) && !isRunning)
    const canResume = !isRunning && agent.suspended && !agent.suspended.until_ready && who.may('invoke')
    const label = canResume ? 'Resume' : 'Interrupt'
    setText(chip.button, label)
    chip.button.setAttribute('aria-label', `${label} ${agent.agent}`)
    const isAway = !(canResume || (isRunning && !this.refused))
    if (isAway && chip.button === document.activeElement) this.onLost()
    chip.button.classList.toggle('away', isAway)
    chip.resumes = Boolean(canResume)
  }

  async act(agent) {
    const chip = this.chips.get(agent)
    try {
      if (chip.resumes) await this.session.resume(agent)
      else await this.session.interrupt(agent)
    } catch (error) {
      if (error.status === 403) this.refused = true
      this.session.tell('trouble', say(error))
      alert(say(error))
    }
  }

  get anybody() {
    return running(this.session.state).length > 0
  }
}
