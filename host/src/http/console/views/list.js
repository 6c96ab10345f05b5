// The sessions there are, and a new one.

import { path, say } from '../api.js'
import { bdi, button, el, field, setText, show } from '../dom.js'
import * as who from '../credentials.js'
import { clock } from '../words.js'

const PAGE = 30

export class List {
  constructor({ open }) {
    this.open = open
    this.list = el('ul.sessions')
    this.trouble = el('p.trouble', { hidden: true })
    this.more = button('More', () => this.page(), { hidden: true })
    this.none = el('p.hint', { hidden: true }, 'No sessions yet.')
    this.id = el('input', { type: 'text', spellcheck: 'false', autocomplete: 'off', placeholder: 'Session id', 'aria-label': 'Open a session by its id' })
    const add = button('New session', () => this.create(), { class: 'primary' })
    if (!who.may('invoke')) {
      add.disabled = true
      add.title = 'The key has no scope invoke.'
    }
    this.add = add
    this.node = el('nav.sidebar', { 'aria-label': 'Sessions' },
      el('div.row', {}, el('h2', {}, 'Sessions'), add),
      who.may('invoke') ? null : el('p.hint', {}, 'This key has no scope invoke: sessions can be read, and nothing sent or opened.'),
      el('form.row', { on: { submit: event => {
        event.preventDefault()
        if (this.id.value.trim()) open(this.id.value.trim())
      } } }, this.id, el('button', { type: 'submit' }, 'Open')),
      this.trouble, this.none, this.list, this.more)
    this.cursor = null
    this.current = null
  }

  async load() {
    this.cursor = null
    this.list.replaceChildren()
    if (!who.may('read')) {
      setText(this.trouble, 'This key has no scope read: sessions cannot be listed or read.')
      return show(this.trouble, true)
    }
    await this.page()
  }

  async page() {
    show(this.trouble, false)
    this.more.disabled = true
    try {
      const cursor = this.cursor ? `&cursor=${encodeURIComponent(this.cursor)}` : ''
      const page = await who.byKey('GET', `/v1/sessions?limit=${PAGE}${cursor}`)
      for (const { session } of page.sessions) {
        // One that was opened before this page came has its place now.
        for (const row of this.list.children) if (row.dataset.session === session) { row.remove(); break }
        this.list.append(this.row(session))
      }
      this.cursor = page.cursor
      show(this.more, Boolean(page.cursor))
      show(this.none, !this.list.children.length)
      this.mark(this.current)
    } catch (error) {
      setText(this.trouble, say(error))
      show(this.trouble, true)
      show(this.more, true)
      setText(this.more, 'Try again')
      this.more.disabled = false
      return
    }
    setText(this.more, 'More')
    this.more.disabled = false
  }

  row(session) {
    const link = el('a', { href: `#session=${encodeURIComponent(session)}`, title: session }, bdi(session, { class: 'id' }), el('span.hint'))
    return el('li', { 'data-session': session }, link)
  }

  mark(session) {
    this.current = session
    for (const row of this.list.children) {
      if (row.dataset.session === session) row.firstChild.setAttribute('aria-current', 'page')
      else row.firstChild.removeAttribute('aria-current')
    }
  }

  /** When something happened last in a session that is open. */
  active(session, time) {
    this.include(session)
    for (const row of this.list.children) {
      if (row.dataset.session === session) setText(row.querySelector('.hint'), clock(time))
    }
  }

  /** A session that was just opened or made stands in the list, wherever its id would have it. */
  include(session) {
    const has = [...this.list.children].some(row => row.dataset.session === session)
    if (!has) this.list.prepend(this.row(session))
    show(this.none, false)
    this.mark(session)
  }

  async create() {
    const dialog = el('dialog', { 'aria-labelledby': 'new-session' })
    const trouble = el('p.trouble', { hidden: true })
    const agents = el('fieldset', {}, el('legend', {}, 'Who takes part'), el('p.hint', {}, 'Looking…'))
    const entry = el('select')
    const id = el('input', { type: 'text', spellcheck: 'false', autocomplete: 'off', pattern: '[A-Za-z0-9._@\\-]{1,128}' })
    const submit = el('button.primary', { type: 'submit', disabled: true }, 'Open')
    let isMade = false
    const chosen = () => [...agents.querySelectorAll('input:checked')].map(box => box.value)
    const changed = () => {
      const names = chosen()
      const old = entry.value
      entry.replaceChildren(...names.map(name => el('option', { value: name }, name)))
      if (names.includes(old)) entry.value = old
      submit.disabled = !names.length
    }
    const refuse = error => { setText(trouble, say(error)); show(trouble, true) }
    dialog.append(el('form', { on: { submit: async event => {
      event.preventDefault()
      submit.disabled = true
      try {
        const body = { agents: chosen(), entry: entry.value }
        const name = id.value.trim()
        const made = name ? await who.byKey('PUT', path('sessions', name), { body }) : await who.byKey('POST', '/v1/sessions', { body })
        isMade = true
        dialog.close()
        this.include(made.session)
        this.open(made.session)
      } catch (error) {
        refuse(error)
        submit.disabled = false
      }
    } } },
    el('h2', { id: 'new-session' }, 'New session'), trouble, agents,
    field('Messages go to', entry, 'The entry agent gets every message that names no other.'),
    field('Id', id, 'Chosen for you if you leave it empty.'),
    el('div.row.end-row', {}, button('Cancel', () => dialog.close()), submit)))
    dialog.addEventListener('close', () => { dialog.remove(); if (!isMade) this.add.focus() })
    document.body.append(dialog)
    dialog.showModal()
    try {
      const { agents: known } = await who.byKey('GET', '/v1/agents')
      const rows = known.map(agent => el('label.choice', {},
        el('input', { type: 'checkbox', value: agent.agent, on: { change: changed } }),
        el('span', {}, bdi(agent.agent, { class: 'name' }), agent.ready ? null : el('span.badge', {}, 'not deployed'),
          el('span.hint', {}, agent.description || (agent.kind === 'conversation' ? 'A conversation.' : '')))))
      agents.replaceChildren(el('legend', {}, 'Who takes part'), ...rows)
      if (!rows.length) agents.append(el('p.hint', {}, 'No agents are deployed.'))
      agents.querySelector('input')?.focus()
    } catch (error) {
      refuse(error)
    }
  }
}
