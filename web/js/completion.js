/** Names after "embedding:" in the texts of our prompt nodes: of files, of concepts that the graph trains or loads, and {concept}. */

import { app } from "../../../scripts/app.js"
import { textsIn } from "./texts.js"

const PROMPTS = ["CompInvPrompt", "CompInvAttributePrompt"]
const ROLES = ["colour", "style", "object", "layout"]
const TYPED = /(?:embedding:|\{concept\}\.)[^\s,;:()[\]{}|]*$/
const MOST = 50 // of a folder of thousands; more letters find the others
const MOVES = { ArrowDown: 1, ArrowUp: -1 }
const ATTRIBUTES = { "aria-autocomplete": "list", "aria-controls": "compinv-completion", "aria-activedescendant": "compinv-completion-chosen" }
const STYLE = `
.compinv-completion { position: fixed; z-index: 9999; box-sizing: border-box; max-height: 13em; margin: 0; padding: 2px; overflow-y: auto;
    list-style: none; font-size: 13px; color: var(--input-text, #ddd); background: var(--comfy-menu-bg, #353535);
    border: 1px solid var(--border-color, #666); border-radius: 4px; }
.compinv-completion li { padding: 3px 8px; cursor: pointer; overflow-wrap: anywhere; }
.compinv-completion [aria-selected=true] { background: var(--comfy-input-bg, #222); outline: 1px solid var(--input-text, #ddd); outline-offset: -1px; }`

/** The prompt node that a text field belongs to, in either renderer. */
function promptOf(field) {
    const id = field.closest("[data-node-id]")?.dataset.nodeId
    const node = (app.canvas.graph ?? app.graph)._nodes.find(
        node => `${node.id}` === id || node.widgets?.some(widget => widget.element === field)
    )
    return PROMPTS.includes(node?.comfyClass) ? node : undefined
}

/** Names of concepts that nodes of the graph train, repair or load, those of subgraphs too. */
function conceptsOf(graph) {
    return graph._nodes.flatMap(node => {
        if (node.subgraph) return conceptsOf(node.subgraph)
        if (!node.comfyClass?.startsWith("CompInv")) return []
        const of = name => node.widgets?.find(widget => widget.name === name)?.value
        const file = node.comfyClass === "CompInvLoadConcept" ? `${of("file")}` : ""
        const name = /\.png$/i.test(file) ? "" : file.replace(/\.[^.]*$/, "") // a card has the name within
        return [of("placeholder"), name].filter(Boolean)
    })
}

/** Whether another pack's completion is open: Custom Scripts' or Autocomplete-Plus's. Ours then stays out of its way. */
const another = () => [...document.querySelectorAll(".pysssss-autocomplete, #autocomplete-plus-root")].some(list => list.checkVisibility())

class Completion {
    /** @param {HTMLTextAreaElement} field */
    constructor(field, label) {
        this.field = field
        this.list = document.createElement("ul")
        Object.assign(this.list, { className: "compinv-completion", id: "compinv-completion", role: "listbox", ariaLabel: label })
        this.list.addEventListener("pointerdown", event => {
            event.preventDefault() // the text keeps the focus
            const index = [...this.list.children].indexOf(event.target)
            if (index >= 0) this.accept(index)
        })
        document.body.append(this.list)
        for (const [name, value] of Object.entries(ATTRIBUTES)) field.setAttribute(name, value)
    }

    show(found, length) {
        Object.assign(this, { found, length })
        this.list.replaceChildren(
            ...found.map(text => Object.assign(document.createElement("li"), { role: "option", textContent: text }))
        )
        this.choose(0)
        const { left, top, bottom, width } = this.field.getBoundingClientRect()
        const above = innerHeight - bottom < this.list.offsetHeight && top > innerHeight - bottom
        const across = Math.max(0, Math.min(left, innerWidth - this.list.offsetWidth))
        Object.assign(this.list.style, { left: `${across}px`, minWidth: `${Math.min(width, 300)}px`, top: above ? "" : `${bottom}px` })
        this.list.style.bottom = above ? `${innerHeight - top}px` : ""
    }

    choose(index) {
        const { children } = this.list
        this.chosen = (index + children.length) % children.length
        for (const [i, option] of [...children].entries()) {
            option.ariaSelected = `${i === this.chosen}`
            option.id = i === this.chosen ? ATTRIBUTES["aria-activedescendant"] : ""
        }
        children[this.chosen].scrollIntoView({ block: "nearest" })
    }

    /** Write an entry in place of what was typed, as typing would, so that Ctrl+Z takes it back. */
    accept(index) {
        const { field, length, found } = this
        this.close()
        writing = true // which is no typing that asks for more
        field.setSelectionRange(field.selectionStart - length, field.selectionStart)
        document.execCommand("insertText", false, found[index])
        writing = false
    }

    close() {
        this.list.remove()
        for (const name of Object.keys(ATTRIBUTES)) this.field.removeAttribute(name)
        if (open === this) open = undefined
    }
}

let open, names, writing

/** What fits what stands before the caret, best first. */
function fitting(node, typed) {
    const every = [...new Set([...conceptsOf(app.graph), ...names])]
    const entries = ["{concept}", ...every.map(name => `embedding:${name}`)]
    if (node.comfyClass === "CompInvAttributePrompt") {
        const whole = entries.filter(entry => typed.startsWith(`${entry}.`))
        entries.push(...whole.flatMap(entry => ROLES.map(role => `${entry}.${role}`)))
    }
    const wanted = typed.toLowerCase()
    const part = wanted.replace("embedding:", "")
    const begins = entries.filter(entry => entry.toLowerCase().startsWith(wanted))
    const holds = entries.filter(entry => !begins.includes(entry) && entry.toLowerCase().replace("embedding:", "").includes(part))
    return [...begins.slice(0, MOST), ...holds].slice(0, 2 * MOST) // {concept} leads the second
}

async function onInput({ target: field, isComposing }) {
    if (field.tagName !== "TEXTAREA" || writing || isComposing) return
    const before = () => field.value.slice(0, field.selectionStart).match(TYPED)?.[0]
    const node = before() && promptOf(field)
    if (!node || another()) return open?.close()
    names ??= await app.api.getEmbeddings().catch(() => [])
    const typed = before() // more may have been typed meanwhile
    const found = typed && document.activeElement === field ? fitting(node, typed) : []
    if (!found.length || (found.length === 1 && found[0] === typed)) return open?.close()
    open ??= new Completion(field, textsIn(app.extensionManager.setting.get("Comfy.Locale"))["names"])
    open.show(found, typed.length)
}

function onKey(event) {
    if (!open || event.isComposing || event.ctrlKey || event.metaKey || event.altKey) return
    if (another()) return open.close()
    if (event.key in MOVES) open.choose(open.chosen + MOVES[event.key])
    else if (event.key === "Enter" || (event.key === "Tab" && !event.shiftKey)) open.accept(open.chosen)
    else if (event.key === "Escape") open.close()
    else {
        if (["ArrowLeft", "ArrowRight", "Home", "End"].includes(event.key)) open.close()
        return
    }
    event.preventDefault()
    event.stopImmediatePropagation()
}

app.registerExtension({
    name: "CompositionalInversion.Completion",
    setup() {
        document.head.append(Object.assign(document.createElement("style"), { textContent: STYLE }))
        addEventListener("input", onInput, true)
        addEventListener("keydown", onKey, true)
        addEventListener("focusin", ({ target }) => { if (target.tagName === "TEXTAREA") names = undefined }, true) // files come and go
        addEventListener("focusout", () => open?.close(), true)
        for (const kind of ["pointerdown", "wheel"]) {
            addEventListener(kind, ({ target }) => { if (open && !open.list.contains(target)) open.close() }, true)
        }
    }
})
